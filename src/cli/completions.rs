//! `btfs completions`: what makes a shell complete commands and options, made from what clap knows of them.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::args::Cli;
use super::{exit, text};

/// What can stand after `btfs completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Writes it to standard output.
pub(crate) fn run(args: &Args) -> anyhow::Result<i32> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "btfs", &mut script);
    text::print(&script)?;
    Ok(exit::OK)
}

/// Where the scripts belong.
pub(super) const PLACES: &str = r#"Where it belongs:
  bash        btfs completions bash > ~/.local/share/bash-completion/completions/btfs
              (with the package bash-completion; or in ~/.bashrc: source <(btfs completions bash))
  zsh         btfs completions zsh > ~/.zfunc/_btfs
              (in ~/.zshrc, before compinit: fpath+=~/.zfunc)
  fish        btfs completions fish > ~/.config/fish/completions/btfs.fish
  elvish      in ~/.config/elvish/rc.elv: eval (btfs completions elvish | slurp)
  powershell  in $PROFILE: btfs completions powershell | Out-String | Invoke-Expression

For all users:
  bash        /usr/share/bash-completion/completions/btfs
  zsh         /usr/share/zsh/vendor-completions/_btfs
  fish        /usr/share/fish/vendor_completions.d/btfs.fish"#;
