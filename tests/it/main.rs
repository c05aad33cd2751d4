//! (see each module)
mod cli;
mod corpus;
mod create;
mod edit;
mod fs_model;
mod fuzz;
mod http_client;
mod index;
mod layering;
mod scripts;
mod shell;
mod store;
mod tracker;
mod udp_tracker;
mod verify;
mod wire;
