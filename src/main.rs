fn main() {
    std::process::exit(btfs::cli::main());
}
