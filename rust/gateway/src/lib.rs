//! The gateway: requests answered by the right model.
//!
//! A device gateway stands before a local server and knows one edge; an edge gateway stands before the
//! larger models. What decides is `cr2fast-core`, so the bits are those that were calibrated. Reading
//! the modules in this order follows a request: `config` and `app` are set up before it comes; `serve`
//! takes its connection, `ask` and `wire` read it, `brain` decides, `device` or `edge` has it answered
//! by an `upstream`, `answer` and `relay` hand that on, `trace` keeps what `log` and `metrics` tell, and
//! `promise` labels what was decided.

mod answer;
mod app;
mod ask;
mod brain;
mod config;
mod context;
mod device;
mod edge;
mod encoding;
mod endpoint;
mod energy;
mod heavy;
#[cfg(any(test, feature = "internals"))]
mod hostile;
mod job;
mod link;
mod log;
mod metrics;
mod promise;
mod refusal;
mod relay;
mod serve;
mod shadow;
mod spans;
mod standing;
mod stop;
mod tls;
mod trace;
mod upstream;
mod wire;

use std::io::Write;

pub use app::App;
pub use config::{Config, ConfigError, RoleConfig};
pub use serve::serve;

/// What fuzzing looks at beneath the surface.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::hostile::{config, events, headers, request};
}

/// A line for whoever runs the gateway.
pub fn say(words: &str) {
    // Nobody may be listening; that ends nothing.
    let _ = writeln!(std::io::stderr(), "cr2fast-gateway: {}", plain(words));
}

/// Words without the system's numbers of its errors: `No such file or directory (os error 2)`.
fn plain(words: &str) -> String {
    let mut parts = words.split(" (os error ");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let digits = part.trim_start_matches(|c: char| c.is_ascii_digit());
        match digits.strip_prefix(')').filter(|_| digits.len() < part.len()) {
            Some(rest) => out.push_str(rest),
            None => out.extend([" (os error ", part]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_of_the_systems_errors_are_left_out() {
        for (words, plain) in [
            ("got a: No such file (os error 2)", "got a: No such file"),
            ("a (os error 2), b (os error 13); c", "a, b; c"),
            ("a (os error x) (os error ) (os error 2", "a (os error x) (os error ) (os error 2"),
            ("", ""),
        ] {
            assert_eq!(super::plain(words), plain);
        }
    }
}
