//! Gateways on loopback, between clients and upstreams that play a part.

mod api;
mod blame;
mod bounds;
mod budget;
mod common;
mod config;
mod deploy;
mod device;
mod edge;
mod endpoint;
mod energy;
mod energy_refused;
mod hostile;
mod kept;
mod kill;
mod load;
mod log;
mod own;
mod protocol;
mod reload;
mod shadow;
#[cfg(feature = "otel")]
mod spans;
mod stop;
mod tls;
mod traces;
mod upstreams;
