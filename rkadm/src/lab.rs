//! `rkadm lab`: virtual hosts on one machine; the work is in the crate of that name.

pub use lab::LabArgs;

/// Runs one `lab` command. Blocks the thread: nothing else runs beside it.
///
/// # Errors
/// As text for the user.
pub async fn run(args: LabArgs) -> anyhow::Result<()> {
    lab::run(&args)
}
