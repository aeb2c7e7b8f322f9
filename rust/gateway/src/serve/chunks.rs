//! Where a body in chunks ends (RFC 9112, section 7.1), read as strictly as hyper reads it.

/// A place in a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
}

/// A body in chunks, so far.
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    place: Place,
    digits: u32,
    left: u64,
}

/// How far some bytes led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of them are the body's.
    More,
    /// The body ends after so many.
    End(usize),
    /// After so many it is none.
    Broken(usize),
}

impl Chunks {
    /// Before the first chunk.
    pub fn new() -> Self {
        Self { place: Place::Size, digits: 0, left: 0 }
    }

    /// Go on.
    pub fn step(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.place == Place::Data {
                let n = self.left.min((bytes.len() - at) as u64);
                self.left -= n;
                at += n as usize;
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            at += 1;
            let digit = char::from(*byte).to_digit(16).filter(|_| self.digits < 16);
            self.place = match (self.place, byte) {
                (Place::Size, _) if digit.is_some() => {
                    self.left = 16 * self.left + u64::from(digit.unwrap_or(0));
                    self.digits += 1;
                    Place::Size
                }
                (Place::Size, b'\r') if self.digits > 0 => Place::SizeLf,
                (Place::Size, b';' | b' ' | b'\t') if self.digits > 0 => Place::Extension,
                (Place::Extension, b'\r') => Place::SizeLf,
                (Place::Trailer, b'\r') => Place::TrailerLf,
                (Place::Extension | Place::Trailer, byte) if *byte != b'\n' => self.place,
                (Place::SizeLf, b'\n') if self.left == 0 => Place::LineStart,
                (Place::SizeLf, b'\n') => Place::Data,
                (Place::DataCr, b'\r') => Place::DataLf,
                (Place::DataLf, b'\n') => {
                    self.digits = 0;
                    Place::Size
                }
                (Place::LineStart, b'\r') => Place::EndLf,
                (Place::LineStart, byte) if *byte != b'\n' => Place::Trailer,
                (Place::TrailerLf, b'\n') => Place::LineStart,
                (Place::EndLf, b'\n') => return Step::End(at),
                _ => return Step::Broken(at),
            };
        }
        Step::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_its_chunks_say_wherever_it_is_cut() {
        for (body, end) in [
            ("0\r\n\r\n", true),
            ("5\r\nhello\r\n0\r\n\r\n", true),
            ("A;x=\"y\"\r\n0123456789\r\n00\r\nx: y\r\nz: w\r\n\r\n", true),
            ("2 \r\nab\r\n0\r\n\r\n", true),
            ("\r\n", false),
            ("0x5\r\nhello\r\n", false),
            ("+5\r\nhello\r\n", false),
            ("5\nhello\r\n", false),
            ("5;a\nb\r\nhello\r\n", false),
            ("5\r\nhelloX\r\n", false),
            ("5\r\nhello\n0\r\n\r\n", false),
            ("00000000000000005\r\nhello\r\n", false),
            ("0\r\nx: y\n\r\n", false),
            ("0\r\n\n", false),
        ] {
            for size in 1..=body.len() {
                let mut chunks = Chunks::new();
                let mut before = 0;
                let mut last = Step::More;
                for piece in body.as_bytes().chunks(size) {
                    last = chunks.step(piece);
                    if last != Step::More {
                        break;
                    }
                    before += piece.len();
                }
                match last {
                    Step::End(n) => assert_eq!((before + n, true), (body.len(), end), "{body:?}"),
                    Step::Broken(_) => assert!(!end, "{body:?} in pieces of {size}"),
                    Step::More => panic!("{body:?} in pieces of {size}"),
                }
            }
        }
    }
}
