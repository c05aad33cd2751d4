//! A web server on loopback, and the certificates that HTTPS needs: made by openssl, known to nobody else.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::Talker;
use super::{World, own_ip, run};

/// An authority that signs certificates; trusted by whoever is told of its file.
pub struct Authority {
    /// Its own certificate (PEM), as `SSL_CERT_FILE` wants it.
    pub file: PathBuf,
    directory: PathBuf,
}

/// A server's certificate.
pub struct Certificate {
    /// PEM.
    pub chain: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl World {
    #[track_caller]
    pub fn authority(&self, name: &str) -> Authority {
        let directory = self.directory(name);
        std::fs::write(directory.join("openssl.cnf"), CONFIG).unwrap();
        let authority = Authority { file: directory.join("authority.pem"), directory };
        let mut request = authority.openssl("authority");
        // Two authorities differ by their names.
        run(request.env("NAME", name).args(["-extensions", "authority", "-out"]).arg(&authority.file));
        authority
    }

    /// Serves what lies in `directory`: by HTTPS with a certificate, else by HTTP.
    #[track_caller]
    pub fn web_server(&self, directory: &Path, certificate: Option<(IpAddr, &Certificate)>) -> WebServer {
        let ip = certificate.map_or_else(own_ip, |(ip, _)| ip);
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/web_server.py"));
        command.arg(ip.to_string()).arg(directory);
        if let Some((_, certificate)) = certificate {
            command.arg(&certificate.chain).arg(&certificate.key);
        }
        let mut talker = Talker::start(&mut command, &self.path(format!("web-{ip}.log")));
        let port = talker.hear("the web server listens", START, 0, |line| line["port"].as_u64());
        let scheme = if certificate.is_some() { "https" } else { "http" };
        WebServer { talker, url: format!("{scheme}://{ip}:{port}") }
    }
}

impl Authority {
    /// A certificate for a server at this address, and at no other.
    #[track_caller]
    pub fn certify(&self, ip: IpAddr) -> Certificate {
        let certificate = Certificate { chain: self.path(ip, "pem"), key: self.path(ip, "key") };
        let mut request = self.openssl(&ip.to_string());
        request.args(["-extensions", "server", "-CA"]).arg(&self.file).arg("-CAkey").arg(self.path("authority", "key"));
        run(request.env("ADDRESS", ip.to_string()).arg("-out").arg(&certificate.chain));
        certificate
    }

    /// A self-made key and a request to certify it at once.
    fn openssl(&self, name: &str) -> Command {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-days", "2", "-config"]).arg(self.directory.join("openssl.cnf"));
        command.arg("-keyout").arg(self.path(name, "key")).env("NAME", name).env("ADDRESS", "127.0.0.1");
        command
    }

    fn path(&self, name: impl ToString, kind: &str) -> PathBuf {
        self.directory.join(format!("{}.{kind}", name.to_string()))
    }
}

/// A running web server; it tells of every request.
pub struct WebServer {
    talker: Talker,
    /// Without a slash at the end.
    pub url: String,
}

impl WebServer {
    /// Who asked for this path, and the status of the answer; in order.
    pub fn asked(&self, path: &str) -> Vec<(IpAddr, u64)> {
        let from = |line: &serde_json::Value| Some((line["from"].as_str()?.parse().ok()?, line["status"].as_u64()?));
        self.talker.heard().iter().filter(|line| line["asked"] == *path).filter_map(from).collect()
    }
}

const START: Duration = Duration::from_secs(30);
const CONFIG: &str = "
[req]
distinguished_name = name
prompt = no
[name]
CN = btfs test ${ENV::NAME}
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:${ENV::ADDRESS}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
";
