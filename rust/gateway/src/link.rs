//! The link's state ξ, from the traffic itself.
//!
//! In: for each request to the edge the bits that went and came, and how long that took beside the
//! edge's own time. Out: [`Measured`]: round trip and rates as exponentially weighted means, each absent
//! until something was measured; the edge takes what is absent from the cost table's typical state.
//!
//! A request takes a round trip and its bits over the rate. One of few bits tells the round trip, one of
//! many the rate; each is corrected by what the other has told. New connections are left out: their
//! handshakes are no round trip of a request.

use std::sync::Mutex;

use cr2fast_core::LinkState;

/// Weight of a new sample.
const WEIGHT: f64 = 0.2;
/// A request of fewer bits shows the round trip, one of more the uplink's rate.
const MANY_BITS: f64 = 65_536.0;

/// What is known of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// τ_rtt, s.
    pub rtt_s: Option<f64>,
    /// R_ul, bit/s.
    pub rate_ul_bps: Option<f64>,
    /// R_dl, bit/s.
    pub rate_dl_bps: Option<f64>,
}

/// One exchange with the edge over a warm connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exchange {
    /// Bits of the request.
    pub sent_bits: f64,
    /// From sending to the answer's head, without the edge's own time, s.
    pub up_s: f64,
    /// Bits of an answer that came in one piece, and from its head to its end, s.
    pub received: Option<(f64, f64)>,
}

impl Measured {
    /// As a header.
    pub fn to_header(self) -> String {
        let fields = [
            ("rtt_s", self.rtt_s),
            ("rate_ul_bps", self.rate_ul_bps),
            ("rate_dl_bps", self.rate_dl_bps),
        ];
        let known = fields.iter().filter_map(|(key, x)| x.map(|x| format!("{key}={x}")));
        known.collect::<Vec<_>>().join(";")
    }

    /// From a header; the error is what was expected.
    pub fn from_header(value: &str) -> Result<Self, String> {
        let mut out = Self::default();
        for field in value.split(';') {
            let (key, number) = field.split_once('=').unwrap_or((field, ""));
            let slot = match key {
                "rtt_s" => &mut out.rtt_s,
                "rate_ul_bps" => &mut out.rate_ul_bps,
                "rate_dl_bps" => &mut out.rate_dl_bps,
                _ => return Err("rtt_s, rate_ul_bps and rate_dl_bps as key=number".into()),
            };
            *slot = Some(number.parse().map_err(|_| format!("a number for {key}"))?);
        }
        out.or(LinkState { rate_ul_bps: 1.0, rate_dl_bps: 1.0, rtt_s: 0.0 })
            .check(|| "state".into())
            .map_err(|_| "positive rates and a round trip of at least 0".to_string())?;
        Ok(out)
    }

    /// The names of what is measured.
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            ("rtt_s", self.rtt_s),
            ("rate_ul_bps", self.rate_ul_bps),
            ("rate_dl_bps", self.rate_dl_bps),
        ];
        all.into_iter().filter_map(|(name, x)| x.map(|_| name)).collect()
    }

    /// The whole state, what is not measured taken from another.
    pub fn or(self, other: LinkState) -> LinkState {
        LinkState {
            rtt_s: self.rtt_s.unwrap_or(other.rtt_s),
            rate_ul_bps: self.rate_ul_bps.unwrap_or(other.rate_ul_bps),
            rate_dl_bps: self.rate_dl_bps.unwrap_or(other.rate_dl_bps),
        }
    }

    fn observe(&mut self, seen: Exchange) {
        let mean = |slot: &mut Option<f64>, x: f64| {
            *slot = Some(slot.map_or(x, |old| old + WEIGHT * (x - old)));
        };
        if !(seen.up_s.is_finite() && seen.up_s >= 0.0) {
            return;
        }
        if seen.sent_bits < MANY_BITS {
            let transfer_s = self.rate_ul_bps.map_or(0.0, |rate| seen.sent_bits / rate);
            mean(&mut self.rtt_s, (seen.up_s - transfer_s).max(0.0));
        } else if let Some(transfer_s) = self.rtt_s.map(|rtt| seen.up_s - rtt)
            && transfer_s > 0.0
        {
            mean(&mut self.rate_ul_bps, seen.sent_bits / transfer_s);
        }
        if let Some((bits, seconds)) = seen.received
            && bits >= MANY_BITS
            && seconds > 0.0
        {
            mean(&mut self.rate_dl_bps, bits / seconds);
        }
    }
}

/// The running estimate, shared by all requests.
#[derive(Debug, Default)]
pub struct Link(Mutex<Measured>);

impl Link {
    /// What is known now.
    pub fn now(&self) -> Measured {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Take one exchange into account.
    pub fn observe(&self, seen: Exchange) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).observe(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_requests_come_within_a_tenth_of_the_link() {
        let (rtt_s, rate_ul, rate_dl) = (0.018, 10e6, 40e6);
        let link = Link::default();
        for i in 0..20 {
            // An embedding and a short prompt, or a long one.
            let sent_bits = if i % 2 == 0 { 3e4 } else { 8e5 };
            let jitter = 1.0 + 0.04 * f64::from(i % 3 - 1);
            let up_s = (rtt_s + sent_bits / rate_ul) * jitter;
            link.observe(Exchange { sent_bits, up_s, received: Some((4e5, 4e5 / rate_dl)) });
        }
        let seen = link.now();
        for (got, truth) in
            [(seen.rtt_s, rtt_s), (seen.rate_ul_bps, rate_ul), (seen.rate_dl_bps, rate_dl)]
        {
            assert!((got.unwrap() / truth - 1.0).abs() < 0.1, "{got:?} for {truth}");
        }
    }

    #[test]
    fn nothing_is_known_before_it_is_measured() {
        let link = Link::default();
        assert_eq!(link.now(), Measured::default());
        link.observe(Exchange { sent_bits: 1e6, up_s: 0.1, received: None });
        assert_eq!(link.now(), Measured::default(), "a rate needs the round trip first");
        link.observe(Exchange { sent_bits: 1e3, up_s: -1e-9, received: None });
        link.observe(Exchange { sent_bits: 1e3, up_s: f64::NAN, received: None });
        assert_eq!(link.now(), Measured::default());
        link.observe(Exchange { sent_bits: 1e3, up_s: 0.02, received: Some((10.0, 0.0)) });
        assert_eq!(link.now(), Measured { rtt_s: Some(0.02), ..Measured::default() });
    }

    #[test]
    fn a_header_keeps_the_bits() {
        let m =
            Measured { rtt_s: Some(0.1 + 0.2), rate_ul_bps: None, rate_dl_bps: Some(1e7 / 3.0) };
        assert_eq!(Measured::from_header(&m.to_header()), Ok(m));
        assert_eq!(Measured::default().to_header(), "");
    }
}
