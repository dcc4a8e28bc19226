//! demo
use crate::interrupt::Interrupt;
use crate::stop::Done;
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    #[arg(long)]
    once: bool,
    #[arg(long)]
    json: bool,
}
pub(crate) async fn run(_command: Demo, _interrupt: Interrupt) -> Done {
    Ok(())
}
