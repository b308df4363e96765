//! What was asked for.

/// See the table in `main.rs`.
pub(crate) struct Options {
    pub(crate) nodes: usize,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) cut: u64,
    pub(crate) over: u64,
    pub(crate) seeds: usize,
    pub(crate) scenarios: Vec<String>,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn from_arguments() -> Result<Self, String> {
        let mut options = Self {
            nodes: 100,
            seed: 1,
            seconds: 120,
            cut: 600,
            over: 0,
            seeds: 1,
            scenarios: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let Some(name) = argument.strip_prefix("--") else {
                options.scenarios.push(argument);
                continue;
            };
            let value = arguments
                .next()
                .and_then(|value| value.parse::<u64>().ok())
                .ok_or_else(|| format!("--{name} wants a number"))?;
            match name {
                "nodes" => options.nodes = value.max(2) as usize,
                "seed" => options.seed = value,
                "seconds" => options.seconds = value,
                "cut" => options.cut = value,
                "over" => options.over = value,
                "seeds" => options.seeds = value.max(1) as usize,
                _ => {
                    return Err(format!(
                        "--{name}: there are --nodes --seed --seconds --cut --over --seeds"
                    ));
                }
            }
        }
        if options.scenarios.is_empty() {
            options.scenarios.push("idle".to_owned());
        }
        Ok(options)
    }
}
