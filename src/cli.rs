//! The commands: options become the rooms' `Config`s here, and outcomes become lines and exit statuses.
//!
//! The only room that prints, forks, reads the environment and ends the process.

mod add;
mod answers;
mod args;
pub mod cache;
mod completions;
pub mod create;
mod daemon;
mod demo;
mod edit;
mod exit;
mod get;
mod helper;
mod interrupt;
mod limits;
mod live;
mod logging;
mod man;
mod mount;
mod mountpoint;
mod options;
mod paths;
mod process;
mod publish;
mod seed;
mod share;
pub mod show;
mod status;
mod stop;
mod text;
mod torrents;
mod tracker;
mod umount;
mod verify;
mod watching;
mod whole;

use clap::Parser;

pub use args::Cli;
use args::Command;

/// Runs the command line; returns the exit status: 0 fine, 1 failed, 2 usage, 101 a bug. Under the name `mount.btfs` it is
/// a helper of mount(8), with mount(8)'s exit statuses.
pub fn main() -> i32 {
    daemon::share_heaps();
    exit::install_panic_hook();
    daemon::ignore_file_size_signal();
    if helper::is_meant() {
        return helper::main();
    }
    // Usage errors, help and version end the process in here.
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Mount(args) => mount::run(*args),
        Command::Umount(args) => umount::run(&args),
        Command::Add(args) => add::add(&args),
        Command::Remove(args) => add::remove(&args),
        Command::Set(args) => limits::set(&args),
        Command::Status(args) => status::run(&args),
        Command::Stop(args) => stop::run(&args),
        Command::Show(args) => show::run(args).map(|()| exit::OK),
        Command::Create(args) => create::run(*args),
        Command::Edit(args) => edit::run(&args),
        Command::Cache(args) => cache::run(args).map(|()| exit::OK),
        Command::Get(args) => get::run(*args),
        Command::Seed(args) => seed::run(*args),
        Command::Share(args) => share::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Publish(args) => publish::run(&args),
        Command::Tracker(args) => tracker::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    outcome.unwrap_or_else(|error| exit::report(&error))
}
