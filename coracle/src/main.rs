//! `coracle`: Kubernetes you can carry.

use std::process::ExitCode;

use clap::Parser;
use coracle::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Each worker's stack, in bytes; memory is taken as it is used.
const STACK: usize = 16 << 20;

fn main() -> ExitCode {
    // A container's shim forks, so it must never share its process with another thread: this comes before anything else.
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|first| first == "shim") {
        let rest: Vec<_> = arguments.collect();
        return ExitCode::from(u8::try_from(coracle_kubelet::shim::main(&rest)).unwrap_or(1));
    }
    let cli = Cli::parse();
    coracle::log::init(&cli.log);
    coracle_listener::raise_open_files();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A pod's way through the node agent is one large future; unoptimised, it needs more than the usual 2 MiB.
fn workers(name: &str) -> std::io::Result<tokio::runtime::Runtime> {
    let mut workers = tokio::runtime::Builder::new_multi_thread();
    workers.thread_name(name).thread_stack_size(STACK).enable_all().build()
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let command = cli.command.unwrap_or_else(|| Command::Up(Box::default()));
    // The API server has workers of its own: what the loops and the node's agent compute keeps no request waiting.
    let api = matches!(command, Command::Up(_)).then(|| workers("api")).transpose()?;
    let main = workers("worker")?;
    let api = api.as_ref().unwrap_or(&main).handle();
    main.block_on(async {
        match command {
            Command::Up(up) => coracle::up::run(*up, api).await,
            Command::Down(down) => coracle::down::run(&down).await,
            Command::Image(image) => coracle::image::run(image).await,
            Command::Kubeconfig(data) => coracle::kubeconfig::print(&data),
            Command::Component(component) => coracle::component::run(component).await,
        }
    })
}
