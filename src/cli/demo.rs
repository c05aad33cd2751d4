//! `btfs demo`. (to be written)

use super::args::DemoArgs;

/// Runs it.
pub(crate) fn run(_args: &DemoArgs) -> anyhow::Result<i32> {
    Ok(super::exit::OK)
}
