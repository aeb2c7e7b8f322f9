//! The link's state ξ, from the traffic itself.
//!
//! In: for each request to the edge the bits that went and came, and how long that took beside the
//! edge's own time. Out: [`Measured`]: round trip and rates as exponentially weighted means, each absent
//! until something was measured; the edge takes what is absent from the cost table's typical state.
//!
//! What goes into a mean is the median of the last [`MEDIAN`] samples, and before there are so many the
//! median is the estimate, for the first exchanges warm up everything on the way: on a busy device some answers are
//! read late, which makes a round trip long, and a body that had come in the meantime infinitely fast.
//!
//! A request takes a round trip and its bits over the rate. One of few bits tells the round trip, one of
//! many the rate; each is corrected by what the other has told. New connections are left out: their
//! handshakes are no round trip of a request.

use std::sync::Mutex;

use cr2fast_core::LinkState;

/// Weight of a new sample.
const WEIGHT: f64 = 0.2;
/// Samples whose median goes into the mean.
const MEDIAN: usize = 5;
/// What of an answer has to be there for its head to be read: a segment, bits.
const SEGMENT_BITS: f64 = 11_680.0;
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

impl From<LinkState> for Measured {
    fn from(s: LinkState) -> Self {
        Self {
            rtt_s: Some(s.rtt_s),
            rate_ul_bps: Some(s.rate_ul_bps),
            rate_dl_bps: Some(s.rate_dl_bps),
        }
    }
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
}

/// A mean of medians.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    last: [f64; MEDIAN],
    seen: usize,
    value: Option<f64>,
}

impl Mean {
    fn add(&mut self, x: f64) {
        self.last[self.seen % MEDIAN] = x;
        self.seen += 1;
        let n = self.seen.min(MEDIAN);
        let mut sorted = self.last;
        sorted[..n].sort_by(f64::total_cmp);
        let median = f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]);
        let old = self.value.filter(|_| self.seen > MEDIAN);
        self.value = Some(old.map_or(median, |old| old + WEIGHT * (median - old)));
    }
}

#[derive(Debug, Default)]
struct State {
    rtt_s: Mean,
    rate_ul_bps: Mean,
    rate_dl_bps: Mean,
}

impl State {
    fn observe(&mut self, seen: Exchange) {
        if !(seen.up_s.is_finite() && seen.up_s >= 0.0) {
            return;
        }
        let segment = seen.received.map(|(bits, _)| bits.min(SEGMENT_BITS));
        let segment_s = segment.zip(self.rate_dl_bps.value).map_or(0.0, |(bits, rate)| bits / rate);
        let up_s = (seen.up_s - segment_s).max(0.0);
        if seen.sent_bits < MANY_BITS {
            let transfer_s = self.rate_ul_bps.value.map_or(0.0, |rate| seen.sent_bits / rate);
            self.rtt_s.add((up_s - transfer_s).max(0.0));
        } else if let Some(transfer_s) = self.rtt_s.value.map(|rtt| up_s - rtt)
            && transfer_s > 0.0
        {
            self.rate_ul_bps.add(seen.sent_bits / transfer_s);
        }
        if let Some((bits, seconds)) = seen.received
            && bits >= MANY_BITS
            && seconds > 0.0
        {
            self.rate_dl_bps.add(bits / seconds);
        }
    }
}

/// The running estimate, shared by all requests.
#[derive(Debug, Default)]
pub struct Link(Mutex<State>);

impl Link {
    /// What is known now.
    pub fn now(&self) -> Measured {
        let state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Measured {
            rtt_s: state.rtt_s.value,
            rate_ul_bps: state.rate_ul_bps.value,
            rate_dl_bps: state.rate_dl_bps.value,
        }
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
    fn answers_that_are_read_late_do_not_mislead() {
        let link = Link::default();
        for i in 0..20 {
            // Every fourth is read 30 ms late, when all of the answer has come.
            let late = if i % 4 == 3 { 0.03 } else { 0.0 };
            let received = Some((4e5, if late > 0.0 { 1e-4 } else { 4e5 / 40e6 }));
            link.observe(Exchange { sent_bits: 0.0, up_s: 0.018 + late, received });
        }
        let seen = link.now();
        assert!((seen.rtt_s.unwrap() / 0.018 - 1.0).abs() < 0.1, "{seen:?}");
        assert!((seen.rate_dl_bps.unwrap() / 40e6 - 1.0).abs() < 0.1, "{seen:?}");
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
