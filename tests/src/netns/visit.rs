//! A thread among the nodes of a network.

use std::{fs::File, marker::PhantomData, os::fd::AsFd as _, path::Path};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A thread's stay in a network namespace: sockets that it opens, threads and processes that it
/// starts meanwhile belong there. Dropping it brings the thread back.
#[derive(Debug)]
pub struct Visit {
    home: File,
    // The namespace is the thread's own affair, so this value must not go to another thread.
    _bound: PhantomData<*const ()>,
}

impl Visit {
    /// Moves this thread into a namespace.
    pub(super) fn to(namespace: &str) -> Result<Self> {
        let home = File::open("/proc/thread-self/ns/net").context("this thread's namespace")?;
        let path = Path::new("/run/netns").join(namespace);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        enter(&file).with_context(|| format!("entering {namespace}"))?;
        Ok(Self {
            home,
            _bound: PhantomData,
        })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Err(error) = enter(&self.home) {
            eprintln!("this thread stays in a namespace that is not its own: {error:#}");
        }
    }
}

fn enter(namespace: &File) -> Result<()> {
    let only = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), only).context("setns")
}

#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind, net::TcpStream, thread, time::Duration};

    use super::super::{Lan, or_skip};

    #[test]
    fn a_thread_that_visits_reaches_the_nodes_and_comes_back() {
        if !or_skip("a visit's own test") {
            return;
        }
        let lan = Lan::new(2).unwrap();
        let place = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let home = place();
        {
            let _inside = lan.visit(1).unwrap();
            assert_ne!(place(), home);
            // To a closed port: the other machine's kernel answers, as there is a way to it.
            let address = lan.address(0, 9);
            let knock = move || TcpStream::connect_timeout(&address, Duration::from_secs(5));
            for answer in [knock(), thread::spawn(knock).join().unwrap()] {
                assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            }
        }
        assert_eq!(place(), home);
    }
}
