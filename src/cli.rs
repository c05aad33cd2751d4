//! The commands: options become the rooms' `Config`s here, and outcomes become lines and exit statuses.
//!
//! The only room that prints, forks, reads the environment and ends the process.

mod args;
pub mod create;
mod daemon;
mod demo;
mod exit;
mod live;
mod logging;
mod mount;
mod mountpoint;
mod options;
mod paths;
mod process;
mod seed;
pub mod show;
mod status;
mod text;
mod torrents;
mod umount;

use clap::Parser;

pub use args::Cli;
use args::Command;

/// Runs the command line; returns the exit status: 0 fine, 1 failed, 2 usage, 101 a bug.
pub fn main() -> i32 {
    daemon::share_heaps();
    // Usage errors, help and version end the process in here.
    let cli = Cli::parse();
    exit::install_panic_hook();
    daemon::ignore_file_size_signal();
    let outcome = match cli.command {
        Command::Mount(args) => mount::run(*args),
        Command::Umount(args) => umount::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Show(args) => show::run(args).map(|()| exit::OK),
        Command::Create(args) => create::run(args).map(|()| exit::OK),
        Command::Seed(args) => seed::run(*args),
        Command::Demo(args) => demo::run(&args),
    };
    outcome.unwrap_or_else(|error| exit::report(&error))
}
