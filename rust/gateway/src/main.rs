//! `cr2fast-gateway device|edge|check FILE`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, Command, value_parser};
use cr2fast_gateway::{App, Config, ConfigError, RoleConfig, say, serve};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Connections that wait for the door, as the system counts them.
const BACKLOG: u32 = 1_024;

fn command() -> Command {
    let file = || {
        let help = "TOML file; paths in it are relative to its folder";
        Arg::new("file").required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    Command::new("cr2fast-gateway")
        .about("Answers requests by the right model")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("device")
                .about("Run in front of a local server, with one edge")
                .arg(file()),
        )
        .subcommand(Command::new("edge").about("Run in front of the larger models").arg(file()))
        .subcommand(
            Command::new("check").about("Check a file and say what it would do").arg(file()),
        )
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    let (name, matches) = matches.subcommand().expect("required");
    let path: &PathBuf = matches.get_one("file").expect("required");
    let result = match name {
        "check" => check(path),
        role => run(role, path),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            say(&words);
            ExitCode::FAILURE
        }
    }
}

fn words(e: ConfigError) -> String {
    e.to_string()
}

fn check(path: &Path) -> Result<(), String> {
    let config = Config::read(path).map_err(words)?;
    println!("{}", App::describe(&config).map_err(words)?);
    Ok(())
}

fn run(role: &str, path: &Path) -> Result<(), String> {
    let config = Config::read(path).map_err(words)?;
    let got = match config.role {
        RoleConfig::Device { .. } => "device",
        RoleConfig::Edge { .. } => "edge",
    };
    if got != role {
        let path = path.display();
        return Err(format!("{path}: expected a file of role {role}, got one of role {got}"));
    }
    // Before anything of a gateway that runs already is touched: its log, its state.
    let cannot = |e| words(config.cannot_listen(&e));
    let socket = config.socket().map_err(cannot)?;
    let app = App::new(&config).map_err(words)?;
    for warning in App::warnings(&config) {
        say(&format!("warning: {warning}"));
    }
    let mut runtime = match config.limits.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime
        .worker_threads(config.limits.threads)
        .enable_all()
        .build()
        .map_err(|e| format!("expected to start threads, got: {e}"))?;
    runtime.block_on(async {
        let listener = socket.listen(BACKLOG).map_err(cannot)?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let hang_up = signal(SignalKind::hangup()).map_err(|e| e.to_string())?;
        let terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let scheme = if app.tls().is_some() { "https" } else { "http" };
        say(&format!("{role} on {scheme}://{address}, router {}", app.router_hash()));
        tokio::spawn(reload_on(hang_up, Arc::clone(&app)));
        serve(listener, app, stop_on(terminate)).await;
        say("stopped");
        Ok(())
    })
}

async fn reload_on(mut hang_up: tokio::signal::unix::Signal, app: Arc<App>) {
    while hang_up.recv().await.is_some() {
        let app = Arc::clone(&app);
        let reloaded = tokio::task::spawn_blocking(move || app.reload()).await;
        match reloaded {
            Ok(Ok(hash)) => say(&format!("reloaded, router {hash}")),
            Ok(Err(e)) => say(&format!("reload refused, the old router stays: {e}")),
            Err(_) => say("reload failed, the old router stays"),
        }
    }
}

async fn stop_on(mut terminate: tokio::signal::unix::Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
