//! Gateways on loopback, between clients and upstreams that play a part.

mod api;
mod budget;
mod common;
mod config;
mod device;
mod edge;
mod hostile;
mod log;
mod reload;
mod shadow;
