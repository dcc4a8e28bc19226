//! Everyone comes back at once: `bench-storm` in small. Only the promise is asserted, whatever the machine has to do besides.

use anyhow::{Result, ensure};
use runner_tests::light::Fleet;
use runner_tests::storm::storm;
use runner_tests::world::usual_cluster;
use runner_tests::{Component, ControlPlane, Suite, light};
use std::process::ExitCode;
use std::time::Duration;

/// From the control plane's start until all are back.
const BACK: Duration = Duration::from_secs(30);
const SESSIONS: usize = 200;

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .limit(600)
        .test("light_sessions_are_sessions", light_sessions)
        .needs(&[Component::Cluster])
        .test("all_are_back_in_time_and_others_are_served_meanwhile", all_back)
        .run()
}

async fn light_sessions() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let credentials = light::credentials(&control_plane, 3).await?;
    let admin = control_plane.admin();
    let organization = credentials[0].organization.clone();
    let fleet = Fleet::start(control_plane.runner_address(), credentials)?;
    fleet.all_open(BACK).await?;
    ensure!(fleet.opened().len() == 3);
    let owner = control_plane.user(&organization, "who-looks", "owner").await?;
    let runners = owner.get("/runners").await?;
    let states: Vec<_> = runners["items"].as_array().into_iter().flatten().map(|r| r["state"].clone()).collect();
    ensure!(states == ["connected"; 3], "{runners}");
    ensure!(admin.get("/runners").await?["items"].as_array().is_some_and(Vec::is_empty));
    Ok(())
}

async fn all_back() -> Result<()> {
    let cluster = usual_cluster().await?;
    let figures = storm(&cluster, SESSIONS, BACK).await?;
    println!("{figures}");
    Ok(())
}
