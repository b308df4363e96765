//! What a service manager is told: when the node is a member, and when it is about to stop.

use std::{os::unix::net::UnixDatagram, time::Duration};

use kith_tests::{
    cluster,
    process::{Process, Signal},
    wait,
};

#[test]
fn a_service_manager_is_told_of_readiness_and_of_the_end() {
    let mut cluster = cluster::of(1).start();
    let index = cluster.add_spec().unwrap();
    let path = cluster.folder().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut command = cluster.spec(index).command().unwrap();
    command.env("NOTIFY_SOCKET", &path);
    let agent = Process::start("a service", &mut command).unwrap();
    assert_eq!(next(&manager), "READY=1");
    cluster.node(0).expect_alive(&["n1", "n2"]);

    agent.signal(Signal::TERM).unwrap();
    assert_eq!(next(&manager), "STOPPING=1");
    assert_eq!(agent.expect_code(), 0);
}

/// The next thing that the service manager is told.
fn next(manager: &UnixDatagram) -> String {
    wait::until("word to the service manager", || {
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}
