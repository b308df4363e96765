//! The `kith` binary: see [`kith::cli`].

fn main() -> std::process::ExitCode {
    kith::cli::main()
}
