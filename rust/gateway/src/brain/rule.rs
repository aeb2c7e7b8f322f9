//! Which models an edge may choose, from its file.

use cr2fast_core::{Router, Rule};

use super::bounded;
use crate::config::{Config, ConfigError, RoleConfig};

/// The rule of an edge; every routed model of its file is one of the router's.
pub(super) fn rule(
    config: &Config,
    router: &Router,
    wrong: &dyn Fn(usize, String) -> ConfigError,
) -> Result<Rule, ConfigError> {
    let RoleConfig::Edge { models, fallback, inclusive, .. } = &config.role else {
        return Ok(Rule::EdgeOnly);
    };
    let edge = router.models().get(1..).unwrap_or_default();
    if !models.iter().any(|m| edge.contains(&m.address.name)) {
        let got: Vec<&String> = models.iter().map(|m| &m.address.name).collect();
        let words = format!(
            "models.name: expected at least one of the router's edge models {edge:?}, got {got:?}"
        );
        return Err(wrong(models[0].line, words));
    }
    match fallback {
        None if *inclusive => Ok(Rule::Inclusive),
        None => Ok(Rule::EdgeOnly),
        Some(name) => {
            Rule::fallback(router.models(), &name.value).map_err(|e| wrong(name.line, bounded(&e)))
        }
    }
}
