//! Standard output: tables, JSON, and colour where a person reads it.

use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

/// Colours, by what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Good,
    Odd,
    Bad,
    Faint,
    /// One of six that tell names apart.
    Name(usize),
}

/// Where a command writes.
pub(super) struct Out {
    to: Box<dyn Write>,
    /// A person reads it, and wants colour.
    colour: bool,
    /// A person reads it: what was written may be replaced.
    pub(super) terminal: bool,
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            colour: Colour::Plain,
        }
    }
}

impl Cell {
    pub(super) fn coloured(text: impl Into<String>, colour: Colour) -> Self {
        Self {
            text: text.into(),
            colour,
        }
    }
}

impl Out {
    pub(super) fn stdout() -> Self {
        Self {
            colour: wants_colour(),
            terminal: io::stdout().is_terminal(),
            to: Box::new(io::stdout()),
        }
    }

    /// Where nobody reads.
    pub(super) fn nowhere() -> Self {
        Self {
            to: Box::new(io::sink()),
            colour: false,
            terminal: false,
        }
    }

    #[cfg(test)]
    pub(super) fn to(to: impl Write + 'static) -> Self {
        Self {
            to: Box::new(to),
            colour: false,
            terminal: false,
        }
    }

    /// Writes a line at once.
    pub(super) fn line(&mut self, line: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.to, "{}", line.as_ref())?;
        self.to.flush()
    }

    /// Writes bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.to.flush()
    }

    /// Writes a value as JSON on lines of its own.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.to, value)?;
        self.line("")
    }

    /// Writes a value as JSON on one line.
    pub(super) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, value)?;
        self.line("")
    }

    /// Empties the screen, if there is one.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if self.terminal {
            write!(self.to, "\x1b[2J\x1b[H")?;
        }
        Ok(())
    }

    /// Writes columns as wide as what is in them.
    pub(super) fn table<const N: usize>(
        &mut self,
        head: [&str; N],
        rows: &[[Cell; N]],
    ) -> io::Result<()> {
        let mut widths = head.map(|h| h.chars().count());
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let head = head.map(|h| Cell::coloured(h.to_uppercase(), Colour::Faint));
        for row in std::iter::once(&head).chain(rows) {
            let mut line = String::new();
            let mut owed = 0;
            for (width, cell) in widths.iter().zip(row) {
                // Spaces are owed until something follows: no line ends with them.
                if !cell.text.is_empty() {
                    line.push_str(&" ".repeat(owed));
                    line.push_str(&self.paint(cell.colour, &cell.text));
                    owed = 0;
                }
                owed += width - cell.text.chars().count() + 2;
            }
            self.line(line)?;
        }
        Ok(())
    }

    /// The text in that colour, if there is colour.
    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Plain => "",
            Colour::Good => "32",
            Colour::Odd => "33",
            Colour::Bad => "31",
            Colour::Faint => "2",
            Colour::Name(n) => ["36", "35", "34", "32", "33", "96"][n % 6],
        };
        if self.colour && !code.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Colour only on a terminal that has it, and if nobody says otherwise (no-color.org).
pub(super) fn wants_colour() -> bool {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
    io::stdout().is_terminal()
        && set("NO_COLOR").is_none()
        && set("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
pub(super) mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;

    /// What a command wrote.
    #[derive(Clone, Default)]
    pub(crate) struct Written(Rc<RefCell<Vec<u8>>>);

    impl Written {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let written = Written::default();
        let mut out = Out::to(written.clone());
        let rows: [[Cell; 3]; 2] = [
            ["node-ü".into(), "".into(), "x".into()],
            ["n".into(), "b".into(), "".into()],
        ];
        out.table(["name", "zone", "rtt"], &rows).unwrap();
        let expected = "NAME    ZONE  RTT\nnode-ü        x\nn       b\n";
        assert_eq!(written.text(), expected);
    }

    #[test]
    fn colour_is_left_out_where_nobody_sees_it() {
        let mut out = Out::to(Written::default());
        assert_eq!(out.paint(Colour::Bad, "x"), "x");
        out.colour = true;
        assert_eq!(out.paint(Colour::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(out.paint(Colour::Plain, "x"), "x");
    }
}
