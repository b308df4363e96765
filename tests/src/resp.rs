//! A small RESP2 client: one connection, commands one by one or many at a time.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// An agent answers every command within its own, shorter, patience; or the connection is dead.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest text or list that is believed.
const MAX_LENGTH: usize = 64 << 20;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple string, such as `OK`.
    Text(String),
    /// An error: its code and words.
    Error(String),
    /// A number.
    Integer(i64),
    /// A value; `None` if there is none.
    Value(Option<Vec<u8>>),
    /// Several answers.
    List(Vec<Reply>),
}

impl Reply {
    /// Whether it is the simple string `OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Text(text) if text == "OK")
    }
}

/// A connection. After an error it is of no more use.
#[derive(Debug)]
pub struct Resp {
    stream: BufReader<TcpStream>,
    outgoing: Vec<u8>,
}

impl Resp {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)
            .with_context(|| format!("RESP at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream: BufReader::with_capacity(1 << 16, stream),
            outgoing: Vec::new(),
        })
    }

    /// Asks one thing. An error of the server is an answer too.
    ///
    /// # Errors
    /// If the connection breaks, or says what is no RESP.
    pub fn ask(&mut self, words: &[&[u8]]) -> Result<Reply> {
        self.put(words);
        self.flush()?;
        self.read()
    }

    /// Adds a command to those that [`Self::flush`] sends; each gets an answer, in order.
    pub fn put(&mut self, words: &[&[u8]]) {
        let out = &mut self.outgoing;
        out.extend(format!("*{}\r\n", words.len()).bytes());
        for word in words {
            out.extend(format!("${}\r\n", word.len()).bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what was put.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn flush(&mut self) -> Result<()> {
        let sent = self.stream.get_mut().write_all(&self.outgoing);
        self.outgoing.clear();
        sent.context("sending commands")
    }

    /// The next answer.
    ///
    /// # Errors
    /// If the connection breaks, or says what is no RESP.
    pub fn read(&mut self) -> Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).context("an empty line")?;
        Ok(match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(rest.parse().context("a number")?),
            "$" => Reply::Value(self.value(rest)?),
            "*" => {
                let count: usize = rest.parse().context("the length of a list")?;
                ensure!(count <= MAX_LENGTH, "a list of {count}");
                Reply::List((0..count).map(|_| self.read()).collect::<Result<_>>()?)
            }
            _ => bail!("no RESP2: {line:?}"),
        })
    }

    fn value(&mut self, length: &str) -> Result<Option<Vec<u8>>> {
        if length == "-1" {
            return Ok(None);
        }
        let length: usize = length.parse().context("the length of a value")?;
        ensure!(length <= MAX_LENGTH, "a value of {length} bytes");
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes).context("a value")?;
        ensure!(bytes.ends_with(b"\r\n"), "a value without its end");
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    fn line(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        let read = self.stream.read_until(b'\n', &mut bytes);
        read.context("reading an answer")?;
        ensure!(bytes.ends_with(b"\r\n"), "the connection has ended");
        bytes.truncate(bytes.len() - 2);
        String::from_utf8(bytes).context("an answer that is no text")
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[test]
    fn answers_of_every_kind_are_read_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 23];
            stream.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n");
            let answers = "+OK\r\n-ERR no\r\n:-3\r\n$4\r\na\r\nb\r\n*2\r\n$-1\r\n:1\r\n!odd\r\n";
            stream.write_all(answers.as_bytes()).unwrap();
        });
        let mut client = Resp::connect(address).unwrap();
        assert!(client.ask(&[b"GET", b"a\r\nb"]).unwrap().is_ok());
        assert_eq!(client.read().unwrap(), Reply::Error("ERR no".to_owned()));
        assert_eq!(client.read().unwrap(), Reply::Integer(-3));
        let value = Reply::Value(Some(b"a\r\nb".to_vec()));
        assert_eq!(client.read().unwrap(), value);
        let list = Reply::List(vec![Reply::Value(None), Reply::Integer(1)]);
        assert_eq!(client.read().unwrap(), list);
        let odd = client.read().unwrap_err().to_string();
        assert!(odd.contains("!odd"), "{odd}");
        assert!(client.read().unwrap_err().to_string().contains("ended"));
        server.join().unwrap();
    }
}
