//! Linux' powercap tree: what the processors' packages have spent, and their memory where it is counted.
//!
//! In: the tree's folder. Out: [`Domain`]s and their counters. Core and uncore are part of their package,
//! psys contains it, and other control types (`intel-rapl-mmio`) count the same again: all are left out.
//! AMD's processors are served by `intel-rapl` too.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::tally::{Domain, Sample};

/// The counters tick once in this time, s.
const TICK_S: f64 = 0.001;
/// More than they draw, W.
const MAX_W: f64 = 1_000.0;
/// How deep zones lie in zones.
const DEPTH: usize = 3;

/// The counters of this host.
#[derive(Debug)]
pub struct Zones {
    files: Vec<PathBuf>,
    domains: Vec<Domain>,
}

impl Zones {
    /// Find them, and see that they can be read.
    pub fn open(root: &Path) -> Result<Self, String> {
        let nothing = |what: String| {
            format!(
                "{what}; load the driver (modprobe intel_rapl_msr), or, in a container or virtual machine, ask the meter of its host (energy.agent)"
            )
        };
        let mut found = BTreeMap::new();
        folders(root, DEPTH, &mut found)
            .map_err(|e| nothing(format!("{}: {e}", root.display())))?;
        let (mut files, mut domains) = (Vec::new(), Vec::new());
        for (name, path) in &found {
            let label = read(&path.join("name"))?;
            let package = label.strip_prefix("package-");
            if package.is_some_and(|n| n.contains("die")) {
                return Err(format!(
                    "{} is {label}, one of several dies, which may show one counter twice; ask the profiler's agent instead, which tells them apart (energy.agent)",
                    path.display()
                ));
            }
            if package.is_none() && label != "dram" {
                continue;
            }
            let range = read(&path.join("max_energy_range_uj"));
            let range_j = range.ok().and_then(|r| r.parse().ok()).map(|uj: f64| uj * 1e-6);
            let range_j = range_j.filter(|j| *j > 0.0);
            domains.push(Domain { name: format!("{label} ({name})"), range_j, max_w: MAX_W });
            files.push(path.join("energy_uj"));
        }
        if !domains.iter().any(|d| d.name.starts_with("package-")) {
            return Err(nothing(format!("no package's zone in {}", root.display())));
        }
        let zones = Self { files, domains };
        zones.sample()?;
        Ok(zones)
    }

    /// What is counted.
    pub fn domains(&self) -> &[Domain] {
        &self.domains
    }

    /// Read all of them: some microseconds each.
    pub fn sample(&self) -> Result<Sample, String> {
        let start = Instant::now();
        let joules = self.files.iter().map(|path| counter(path)).collect::<Result<_, _>>()?;
        let took = start.elapsed();
        let give_s = TICK_S + took.as_secs_f64() / 2.0;
        Ok(Sample { at: start + took / 2, give_s, joules, mark: String::new() })
    }
}

/// Zones by name, those in zones too; sysfs shows each also flat, as a link.
fn folders(at: &Path, depth: usize, found: &mut BTreeMap<String, PathBuf>) -> Result<(), Error> {
    for entry in std::fs::read_dir(at)? {
        let entry = entry?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let zone = name.starts_with("intel-rapl:");
        if !(zone || name == "intel-rapl") || found.contains_key(&name) || !path.is_dir() {
            continue;
        }
        if zone {
            found.insert(name, path.clone());
        }
        if depth > 0 {
            folders(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

fn counter(path: &Path) -> Result<f64, String> {
    let text = read(path)?;
    let uj = text.parse::<u64>();
    let uj = uj.map_err(|_| {
        let got: String = text.chars().take(40).collect();
        format!("{}: expected a whole number of microjoules, got {got:?}", path.display())
    })?;
    Ok(uj as f64 * 1e-6)
}

fn read(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => format!(
            "{} may be read by root only: since Linux 5.10 fine energy readings are closed, as they leak what others compute (CVE-2020-8694); run the profiler's agent as root and name it in energy.agent, or, where all users are trusted, open the counters to this gateway's user by a udev rule",
            path.display()
        ),
        _ => format!("{} cannot be read: {e}", path.display()),
    })?;
    Ok(text.trim().into())
}
