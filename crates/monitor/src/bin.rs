//! The monitor as an executable of its own, for tests of this wall. `sampan monitor` is the same function.

fn main() -> std::process::ExitCode {
    monitor::main(std::env::args_os().skip(1))
}
