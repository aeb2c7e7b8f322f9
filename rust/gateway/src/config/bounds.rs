//! How small and how large a number of the file may be.
//!
//! In: the number as it is written. Out: the same in the type that it is used in; or the line, the
//! setting, the range and what came. Every number of a file passes one of these.

use std::ops::RangeInclusive;
use std::time::Duration;

use cr2fast_core::number;
use toml::Spanned;

use super::check::{Checker, Result};

/// The longest time in a file: a day.
const MAX_MS: u64 = 86_400_000;
/// More tokens than any model's context holds.
const MAX_TOKENS: u64 = 1 << 40;

impl Checker<'_> {
    /// A whole number of a range.
    pub(super) fn whole(
        &self,
        key: &str,
        x: &Spanned<i64>,
        range: RangeInclusive<u64>,
    ) -> Result<u64> {
        self.of(key, x, "a whole number", range)
    }

    /// The same, of things in memory.
    pub(super) fn size(
        &self,
        key: &str,
        x: &Spanned<i64>,
        range: RangeInclusive<u64>,
    ) -> Result<usize> {
        Ok(usize::try_from(self.whole(key, x, range)?).unwrap_or(usize::MAX))
    }

    /// How often something may happen.
    pub(super) fn times(&self, key: &str, x: &Spanned<i64>) -> Result<u32> {
        Ok(u32::try_from(self.whole(key, x, 1..=1_000_000)?).unwrap_or(u32::MAX))
    }

    /// A time in milliseconds, up to a day.
    pub(super) fn ms(&self, key: &str, x: &Spanned<i64>) -> Result<Duration> {
        self.of(key, x, "milliseconds", 1..=MAX_MS).map(Duration::from_millis)
    }

    /// The tokens of a model's context.
    pub(super) fn tokens(&self, key: &str, x: Option<&Spanned<i64>>) -> Result<Option<u64>> {
        x.map(|x| self.whole(key, x, 1..=MAX_TOKENS)).transpose()
    }

    /// A number of a range, which NaN and infinities are in none of.
    pub(super) fn real(
        &self,
        key: &str,
        x: &Spanned<f64>,
        range: RangeInclusive<f64>,
    ) -> Result<f64> {
        let value = *x.get_ref();
        if range.contains(&value) {
            return Ok(value);
        }
        let expected =
            format!("a number from {} to {}", number(*range.start()), number(*range.end()));
        Err(self.wrong(x, key, &expected, &number(value)))
    }

    fn of(
        &self,
        key: &str,
        x: &Spanned<i64>,
        what: &str,
        range: RangeInclusive<u64>,
    ) -> Result<u64> {
        let value = u64::try_from(*x.get_ref()).ok().filter(|value| range.contains(value));
        value.ok_or_else(|| {
            let expected = format!("{what} from {} to {}", range.start(), range.end());
            self.wrong(x, key, &expected, x.get_ref())
        })
    }
}
