//! TLS: whom we believe, and who we are.
//!
//! In: PEM files. Out: what a connection to an https upstream trusts, and what a client's connection is
//! served with; or what is wrong with which file. Cryptography is ring's.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, Error, RootCertStore, ServerConfig};

/// Which file is wrong, and how.
#[derive(Debug)]
pub enum Wrong {
    /// The certificate chain.
    Cert(String),
    /// Its key.
    Key(String),
}

/// What an https upstream has to show: a certificate of these roots.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// The system's roots, where asked for, and those of a file; the error is what was wrong.
    pub fn load(ca: Option<&Path>, system: bool) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in ca.map(certificates).transpose()?.unwrap_or_default() {
            roots.add(certificate).map_err(|e| format!("expected CA certificates, got: {e}"))?;
        }
        if system {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("expected certificates here or in the system, got none".into());
            }
        }
        Ok(Self(Arc::new(
            ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring speaks them")
                .with_root_certificates(roots)
                .with_no_client_auth(),
        )))
    }

    /// For one connector.
    pub fn config(&self) -> ClientConfig {
        self.0.as_ref().clone()
    }
}

/// What clients are served with.
pub fn server(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, Wrong> {
    let chain = certificates(cert).map_err(Wrong::Cert)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| {
        Wrong::Key(format!("expected a private key in PEM, got {}: {e}", key.display()))
    })?;
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks them")
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|e| {
            Wrong::Key(format!("expected the key of tls.cert's first certificate: {e}"))
        })?;
    Ok(Arc::new(server))
}

/// Whether a certificate that was refused, or other words than TLS, lie under an error.
pub fn is_refusal(e: &(dyn std::error::Error + 'static)) -> bool {
    beneath(e).is_some()
}

/// What of TLS lies under an error.
pub fn beneath<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    if let Some(found) = e.downcast_ref::<Error>() {
        return Some(found);
    }
    // An io::Error passes over its content, and gives the content's source as its own.
    let content = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match content {
        Some(inner) => beneath(inner),
        None => e.source().and_then(beneath),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let got = match read {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "no certificate in it".to_string(),
        Err(e) => e.to_string(),
    };
    Err(format!("expected certificates in PEM, got {}: {got}", path.display()))
}
