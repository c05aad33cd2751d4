//! (see each module)
mod cli;
mod corpus;
mod create;
mod fs_model;
mod http_client;
mod layering;
mod store;
mod tracker;
mod wire;
