//! Options of `dev`.

use std::path::PathBuf;

use clap::Args;
use hitkeep_auth_dev::{
    postgres::{self, Durability},
    user_folders::{cache_folder, data_folder},
};

use super::{LISTEN, OutputArgs};
use crate::transport::listeners::Address;

/// The HTTP addresses of `dev`: the second is used if the first is taken.
const DEV_HTTP: [&str; 2] = ["127.0.0.1:50052", "127.0.0.1:0"];

#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("there is no home folder to keep data in: name a folder with --data-dir")]
pub struct NoHome;

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Address to listen on for gRPC
    #[arg(long, env = "HITKEEP_AUTH_LISTEN", default_value = LISTEN, value_name = "ADDRESS")]
    pub listen: Address,
    /// Address to listen on for HTTP [default: 127.0.0.1:50052, or a free port if that is taken]
    #[arg(long, env = "HITKEEP_AUTH_HTTP_LISTEN", value_name = "ADDRESS")]
    http_listen: Option<Address>,
    /// Folder for the private Postgres and the demo tokens [default: in the user's data folder]
    #[arg(long, env = "HITKEEP_AUTH_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Folder that contains initdb and postgres [default: the newest that is found]
    #[arg(long, env = "HITKEEP_AUTH_POSTGRES_BIN", value_name = "FOLDER")]
    pub postgres_bin: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
}

impl DevArgs {
    /// The candidates for the HTTP address: the first free one is used.
    pub fn http_listen(&self) -> Vec<Address> {
        match &self.http_listen {
            Some(address) => vec![address.clone()],
            None => DEV_HTTP
                .iter()
                .map(|address| address.parse().expect("it is an address"))
                .collect(),
        }
    }

    /// The options of the private Postgres.
    ///
    /// # Errors
    /// If no data folder is given, and the environment names none.
    pub fn postgres(&self) -> Result<postgres::Options, NoHome> {
        let folder = match &self.data_dir {
            Some(folder) => folder.clone(),
            None => data_folder().ok_or(NoHome)?.join("dev"),
        };
        Ok(postgres::Options {
            folder,
            durability: Durability::Kept,
            programs: self.postgres_bin.clone(),
            cache: cache_folder(),
        })
    }
}
