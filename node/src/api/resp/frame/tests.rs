use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    bulk: 1000,
    args: 20,
    total: 8000,
};

/// Requests as clients write them, from words alone.
fn encoded(requests: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut out = Vec::new();
    for request in requests {
        out.extend(format!("*{}\r\n", request.len()).into_bytes());
        for arg in request {
            out.extend(format!("${}\r\n", arg.len()).into_bytes());
            out.extend(arg);
            out.extend(b"\r\n");
        }
    }
    out
}

/// Feeds bytes in pieces of the given sizes, again and again.
fn fed(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Vec<Bytes>>, ProtocolError> {
    let mut parser = Parser::new(LIMITS);
    let mut buffer = BytesMut::new();
    let mut requests = Vec::new();
    let mut rest = bytes;
    for piece in pieces.iter().cycle() {
        while let Some(request) = parser.next(&mut buffer)? {
            requests.push(request);
        }
        if rest.is_empty() {
            return Ok(requests);
        }
        let (now, later) = rest.split_at(rest.len().min(*piece));
        buffer.extend_from_slice(now);
        rest = later;
    }
    unreachable!("pieces are repeated until nothing is left")
}

fn request() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let arg = prop::collection::vec(any::<u8>(), 0..100);
    prop::collection::vec(arg, 1..12)
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut(
        requests in prop::collection::vec(request(), 0..8),
        pieces in prop::collection::vec(1usize..50, 1..8),
    ) {
        let read = fed(&encoded(&requests), &pieces);
        let read: Vec<Vec<Vec<u8>>> = read
            .unwrap()
            .into_iter()
            .map(|request| request.iter().map(|arg| arg.to_vec()).collect())
            .collect();
        prop_assert_eq!(read, requests);
    }

    #[test]
    fn garbage_is_read_or_refused_the_same_however_it_is_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        pieces in prop::collection::vec(1usize..50, 1..8),
    ) {
        prop_assert_eq!(fed(&bytes, &pieces), fed(&bytes, &[usize::MAX]));
    }

    #[test]
    fn damaged_requests_are_read_or_refused_the_same_however_they_are_cut(
        requests in prop::collection::vec(request(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        pieces in prop::collection::vec(1usize..50, 1..8),
    ) {
        let mut bytes = encoded(&requests);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        prop_assert_eq!(fed(&bytes, &pieces), fed(&bytes, &[usize::MAX]));
    }

    #[test]
    fn a_quoted_word_is_any_bytes(words in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..30), 1..6)
    ) {
        let mut line = Vec::new();
        for word in &words {
            line.extend(b"\"");
            for byte in word {
                line.extend(format!("\\x{byte:02x}").into_bytes());
            }
            line.extend(b"\" ");
        }
        line.extend(b"\r\n");
        let read = fed(&line, &[7]).unwrap();
        prop_assert_eq!(read.len(), 1);
        let read: Vec<Vec<u8>> = read[0].iter().map(|word| word.to_vec()).collect();
        prop_assert_eq!(read, words);
    }
}

#[test]
fn lines_of_words_are_requests() {
    let read = fed(b"\r\n  \nSET k 'a b' \"c\\n\\\"\" x'y'\r\nPING\n", &[3]).unwrap();
    let words: [&[u8]; 5] = [b"SET", b"k", b"a b", b"c\n\"", b"xy"];
    assert_eq!(read, [&words[..], &[b"PING"]]);
}

#[test]
fn empty_requests_have_no_answer() {
    assert_eq!(
        fed(b"*0\r\n*-1\r\n*1\r\n$0\r\n\r\n", &[1]).unwrap().len(),
        1
    );
}

#[test]
fn what_is_too_much_is_refused_before_it_comes() {
    let long = "x".repeat(MAX_INLINE + 1);
    let many = |count: usize, length: usize| encoded(&[vec![vec![b'x'; length]; count]]);
    for (bytes, error) in [
        (b"*21\r\n".to_vec(), ProtocolError::Count),
        (b"*99999999999999999999\r\n".to_vec(), ProtocolError::Count),
        (b"*x\r\n".to_vec(), ProtocolError::Count),
        (b"*1\rx".to_vec(), ProtocolError::Count),
        (
            [b"*".as_slice(), &[b'1'; 40]].concat(),
            ProtocolError::Count,
        ),
        (
            b"*1\r\n$1001\r\n".to_vec(),
            ProtocolError::TooLong(1001, 1000),
        ),
        (b"*1\r\n$-1\r\n".to_vec(), ProtocolError::Length),
        (b"*1\r\n$+1\r\n".to_vec(), ProtocolError::Length),
        (b"*1\r\n:1\r\n".to_vec(), ProtocolError::NoBulk(b':')),
        (b"*1\r\n$1\r\nxyz".to_vec(), ProtocolError::NoEnd),
        (long.into_bytes(), ProtocolError::Line),
        (b"GET \"x\r\n".to_vec(), ProtocolError::Quotes),
        (b"GET \"x\"y\r\n".to_vec(), ProtocolError::Quotes),
        (many(20, 900), ProtocolError::Total),
    ] {
        assert_eq!(fed(&bytes, &[5]), Err(error), "{:?}", bytes.get(..9));
    }
    // Of which nothing counts for the next one.
    let fits = [many(7, 1000), many(20, 300), many(7, 1000)].concat();
    assert_eq!(fed(&fits, &[100]).unwrap().len(), 3);
}
