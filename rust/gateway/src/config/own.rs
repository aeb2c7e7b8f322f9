//! What is the gateway's own: the address it listens on, and the files it reads and writes.
//!
//! In: a file's settings. Out: nothing, or the line of a server that is this very gateway, which would ask
//! itself; or of a path that is written and is another of the file's paths, by whatever name or link.

use std::fs::Metadata;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hyper::Uri;
use toml::Spanned;

use super::check::{Checker, Result};
use super::encoder::EncoderFile;
use super::energy::EnergyFile;
use super::traces::TracesFile;
use super::{Config, ConfigError, EncoderConfig, Lined};

/// Links that lead to a file, at most.
const MAX_LINKS: usize = 40;

impl Checker<'_> {
    /// Refuse servers at the gateway's own address: upstreams by the names of their settings, and those of
    /// the sections beside them.
    pub(super) fn elsewhere(
        &self,
        listen: &Spanned<String>,
        upstreams: &[(&str, &Spanned<String>)],
        (encoder, energy, traces): (Option<&EncoderFile>, Option<&EnergyFile>, Option<&TracesFile>),
    ) -> Result<()> {
        // One that is no address is refused where it is read.
        let Ok(own) = listen.get_ref().parse::<SocketAddr>() else { return Ok(()) };
        let encoder = encoder.map(|file| ("encoder.url", &file.url));
        let agent = energy.and_then(|file| Some(("energy.agent", file.agent.as_ref()?)));
        let traces = traces.map(|file| ("traces.endpoint", &file.endpoint));
        let beside = [encoder, agent, traces].into_iter().flatten();
        for (key, url) in upstreams.iter().copied().chain(beside) {
            if is_own(url.get_ref(), own) {
                let expected = "another server than this gateway itself, which would ask itself";
                let got = format!("{own}, where it listens");
                return Err(self.wrong(url, key, expected, &got));
            }
        }
        Ok(())
    }
}

fn is_own(url: &str, own: SocketAddr) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(usual);
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    // Port 0 is any that is free.
    if port != own.port() || port == 0 {
        return false;
    }
    let own = own.ip().to_canonical();
    let Ok(at) = host.parse::<IpAddr>().map(|ip| ip.to_canonical()) else {
        let local = host.eq_ignore_ascii_case("localhost");
        return local && (own.is_loopback() || own.is_unspecified());
    };
    let one_family = at.is_ipv4() == own.is_ipv4();
    match (own.is_unspecified(), at.is_unspecified()) {
        // Every address of this host: what can be bound is one.
        (true, false) => (one_family || own.is_ipv6()) && UdpSocket::bind((at, 0)).is_ok(),
        (true, true) => one_family || own.is_ipv6(),
        // Whoever asks for no address asks this host.
        (false, true) => one_family && own.is_loopback(),
        (false, false) => at == own,
    }
}

/// A file of the configuration.
struct Named<'a> {
    key: &'a str,
    path: &'a Path,
    /// Its line; none for the configuration itself.
    line: Option<usize>,
    written: bool,
}

impl Config {
    /// Refuse a file that is written and is another of the files, too.
    pub(super) fn apart(&self) -> Result<()> {
        let named = |key, at: &'_ Lined<PathBuf>, written| (key, at.clone(), written);
        let mut files = vec![named("router.path", &self.router.path, false)];
        if let EncoderConfig::File(at) = &self.router.encoder {
            files.push(named("router.encoder", at, false));
        }
        files.extend(self.router.point.file.iter().map(|at| named("router.point", at, false)));
        if let Some((cert, key)) = &self.tls.serve {
            files.extend([named("tls.cert", cert, false), named("tls.key", key, false)]);
        }
        files.extend(self.tls.ca.iter().map(|at| named("tls.ca", at, false)));
        let state = self.promise.as_ref().and_then(|promise| promise.state.as_ref());
        files.extend(state.map(|at| named("promise.state", at, true)));
        files.extend(self.log.iter().map(|log| named("log.path", &log.path, true)));
        let mut all = vec![Named { key: "", path: &self.path, line: None, written: false }];
        all.extend(files.iter().map(|(key, at, written)| Named {
            key,
            path: &at.value,
            line: Some(at.line),
            written: *written,
        }));
        for (k, mine) in all.iter().enumerate().filter(|(_, file)| file.written) {
            let other = all[..k].iter().find(|other| is_same(mine.path, other.path));
            if let Some(other) = other {
                return Err(self.same(mine, other));
            }
        }
        Ok(())
    }

    fn same(&self, mine: &Named, other: &Named) -> ConfigError {
        let whose = match other.line {
            Some(line) => format!("that of {} (line {line})", other.key),
            None => "this configuration".into(),
        };
        let message = format!(
            "{}: expected a file of its own, which the gateway writes, got {}, which is {whose}",
            mine.key,
            mine.path.display()
        );
        ConfigError { path: self.path.clone(), line: mine.line, message }
    }
}

/// Whether two paths lead to one file, which need not be there yet.
fn is_same(a: &Path, b: &Path) -> bool {
    let id = |m: Metadata| (m.dev(), m.ino());
    match (std::fs::metadata(a).map(id), std::fs::metadata(b).map(id)) {
        (Ok(a), Ok(b)) => a == b,
        (Err(_), Err(_)) => meant(a) == meant(b),
        _ => false,
    }
}

/// Where a file would be made: past links that lead to no file yet, in a folder by its one name.
fn meant(path: &Path) -> PathBuf {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(to) = std::fs::read_link(&path) else { break };
        path = path.with_file_name("").join(to);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize();
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_by_all_of_its_names() {
        for (url, listen, own) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://127.0.0.1:8080/v1", "127.0.0.1:8080", true),
            ("http://localhost:8080", "127.0.0.1:8080", true),
            ("http://LOCALHOST:8080", "[::1]:8080", true),
            ("http://[::1]:8080", "[::1]:8080", true),
            ("http://[::ffff:127.0.0.1]:8080", "127.0.0.1:8080", true),
            ("http://0.0.0.0:8080", "127.0.0.1:8080", true),
            ("http://127.0.0.1:8080", "0.0.0.0:8080", true),
            ("http://127.9.9.9:8080", "0.0.0.0:8080", true),
            ("http://localhost:8080", "[::]:8080", true),
            ("http://[::1]:8080", "[::]:8080", true),
            ("http://127.0.0.1:8080", "[::1]:8080", false),
            ("http://[::1]:8080", "0.0.0.0:8080", false),
            ("http://127.0.0.1", "127.0.0.1:80", true),
            ("https://127.0.0.1", "127.0.0.1:443", true),
            ("http://127.0.0.2:8080", "127.0.0.1:8080", false),
            ("http://127.0.0.1:8081", "127.0.0.1:8080", false),
            ("https://127.0.0.1", "127.0.0.1:80", false),
            ("http://192.0.2.1:8080", "0.0.0.0:8080", false),
            ("http://192.0.2.1:8080", "127.0.0.1:8080", false),
            ("http://models.example:8080", "0.0.0.0:8080", false),
            ("http://127.0.0.1:0", "127.0.0.1:0", false),
            ("no url", "127.0.0.1:80", false),
        ] {
            assert_eq!(is_own(url, listen.parse().unwrap()), own, "{url} at {listen}");
        }
    }
}
