//! The verbs and their options.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::{Color, Release, ServiceName};

/// Asks a running cutover what it does, and tells it what to do.
#[derive(Debug, Parser)]
#[command(name = "proxyctl", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused, \
    4 a waiting switch was rolled back, 5 the daemon cannot be reached.";

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Admin socket: a path or unix:/path [default: /run/cutover/admin.sock, else a running demo's]
    #[arg(long, global = true, env = "PROXYCTL_ADDR", hide_env_values = true)]
    pub(crate) addr: Option<String>,
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show every service: live color, upstreams, traffic, switch and drains
    Status {
        /// Refresh every second until Ctrl-C
        #[arg(long, short)]
        watch: bool,
    },
    /// Make a color live: gate, cutover, observe, verdict, drain
    Switch(Switch),
    /// Undo the last cutover, at once
    Rollback {
        /// Return as soon as the former color is live again
        #[arg(long)]
        no_wait: bool,
        /// Why, for the history
        #[arg(long, value_name = "W")]
        why: Option<String>,
        /// Repeat a command safely: the same id is done once, later its recorded result is given
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// End an observe or canary early and keep the new color
    Promote {
        /// Why, for the history
        #[arg(long, value_name = "W")]
        why: Option<String>,
        /// Repeat a command safely: the same id is done once, later its recorded result is given
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// End a running switch early and go back
    Abort {
        /// Why, for the history
        #[arg(long, value_name = "W")]
        why: Option<String>,
        /// Repeat a command safely: the same id is done once, later its recorded result is given
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// Read the configuration again
    Reload,
    /// Let requests wait at the edge until `resume`
    Hold {
        /// Only of this service; may be given more than once [default: every service]
        #[arg(long = "service", value_name = "S", value_parser = service)]
        services: Vec<ServiceName>,
        /// Longest wait of a request; then 503 with Retry-After
        #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
        max: Duration,
    },
    /// Let held requests go on, in the order they came
    Resume {
        /// Only of this service; may be given more than once [default: every service]
        #[arg(long = "service", value_name = "S", value_parser = service)]
        services: Vec<ServiceName>,
    },
    /// Answer 503 with the maintenance page, or end that
    Maintenance(Maintenance),
    /// Refuse every switch and deploy; rollbacks stay possible
    Freeze {
        /// The reason
        #[arg(long, value_name = "W")]
        why: String,
        /// End it after this time, such as 12h [default: with `unfreeze`]
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        time: Option<Duration>,
    },
    /// End a freeze
    Unfreeze,
    /// List what was done: by whom, when, why, and how it ended
    History {
        /// At most this many
        #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
        limit: usize,
        /// Only about this service
        #[arg(long, value_name = "S", value_parser = service)]
        service: Option<ServiceName>,
    },
    /// Look for what is wrong on this machine, and say how to mend it; needs no daemon
    Doctor {
        /// Configuration [default: where `cutover run` looks]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Repair a damaged journal: keep what is damaged beside it, allow switches again
        #[arg(long)]
        repair: bool,
    },
    /// Hash a password for basic_auth: typed twice, or one line from stdin; needs no daemon
    HashPassword {
        /// With bcrypt, as Caddy does [default: argon2id]
        #[arg(long)]
        bcrypt: bool,
    },
    /// List certificates with what is planned for them, or order one now
    Certs {
        #[command(subcommand)]
        action: Option<Certs>,
    },
    /// Try whether everybody who is to be told can be reached
    Notify {
        #[command(subcommand)]
        action: Notify,
    },
    /// Show what speaks against the release under watch, or run a recorded switch
    Judge(Judge),
    /// Show what still runs on the slots that drain
    Drain {
        /// Only of this service; may be given more than once [default: every service]
        #[arg(long = "service", value_name = "S", value_parser = service)]
        services: Vec<ServiceName>,
        /// Return when nothing drains any more
        #[arg(long, short)]
        wait: bool,
    },
    /// Print the effective configuration, secrets masked
    Config,
    /// Say which site, route, service, color and upstream would take a request, and why
    Explain(Explain),
    /// Exit with 0 if this instance is ready: for a container's health check
    Ready,
    /// Write a Caddyfile as cutover.toml; every line without an equivalent is named
    Adapt {
        /// Caddyfile
        file: PathBuf,
        /// Write it there instead of to stdout; a file that is there stays
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Release an image: pull, jobs, start, gate, smoke, switch, verdict, stop the old one
    Deploy(Deploy),
    /// Run a job on a schedule now and wait for its end
    Job {
        /// Name of a job with a schedule
        name: String,
    },
    /// Remove the kept release, idle containers and what earlier deploys have left
    Cleanup,
    /// As cleanup, and give the live containers their first names back
    Reset,
}

#[derive(Debug, Args)]
pub(crate) struct Switch {
    /// Color to make live
    #[arg(value_parser = color, value_name = "blue|green")]
    pub(crate) target: Color,
    /// Only this service; may be given more than once [default: the whole stack]
    #[arg(long = "service", value_name = "S", value_parser = service)]
    pub(crate) services: Vec<ServiceName>,
    /// Give the target this share of the requests first, such as 5% or 0.05
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) canary: Option<f64>,
    /// How long the canary lasts, such as 15m
    #[arg(long = "for", value_name = "TIME", requires = "canary", value_parser = duration)]
    pub(crate) canary_for: Option<Duration>,
    /// Go back unless `proxyctl promote` confirms it within this time, such as 10m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) confirm_within: Option<Duration>,
    /// Return as soon as the cutover is published
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Skip the gate and the quarantine; never a freeze, a running switch or an empty slot
    #[arg(long)]
    pub(crate) force: bool,
    /// Label of what runs in the target, such as an image tag
    #[arg(long, value_name = "L", value_parser = release)]
    pub(crate) release: Option<Release>,
    /// Why, for the history
    #[arg(long, value_name = "W")]
    pub(crate) why: Option<String>,
    /// Repeat a command safely: the same id is done once, later its recorded result is given
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Judge {
    /// Every number, and what it means
    #[arg(long)]
    pub(crate) explain: bool,
    /// Run this record through the verdict; needs no daemon. CSV with the header
    /// t_ms,new_ok,new_fail,old_ok,old_fail,rescued_ok,rescued_fail: counts for each tick
    #[arg(long, value_name = "FILE", conflicts_with = "explain")]
    pub(crate) replay: Option<PathBuf>,
    /// A setting for the replay, such as rollback.errors.floor=0.003; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "replay")]
    pub(crate) settings: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Maintenance {
    /// on or off
    pub(crate) mode: OnOff,
    /// Only this service; may be given more than once [default: every service]
    #[arg(long = "service", value_name = "S", value_parser = service)]
    pub(crate) services: Vec<ServiceName>,
    /// Only this site, by any of its hosts; may be given more than once
    #[arg(long = "site", value_name = "HOST")]
    pub(crate) sites: Vec<String>,
    /// Text on the page
    #[arg(long, value_name = "M")]
    pub(crate) message: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Absolute URL, http:// or https://
    pub(crate) url: String,
    /// Header field of the request; may be given more than once
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Method of the request
    #[arg(long, short = 'X', default_value = "GET")]
    pub(crate) method: String,
    /// Address that the request comes from
    #[arg(long, value_name = "IP")]
    pub(crate) client_ip: Option<IpAddr>,
    /// Explain by this file instead of asking a daemon
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// Image, or only a tag of the image that is live
    #[arg(value_name = "IMAGE|TAG")]
    pub(crate) image: String,
    /// Only this service; may be given more than once [default: the whole stack]
    #[arg(long = "service", value_name = "S", value_parser = service)]
    pub(crate) services: Vec<ServiceName>,
    /// How the new containers take over
    #[arg(long, value_name = "HOW", default_value = "blue-green")]
    pub(crate) strategy: Strategy,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Variables for the new containers, NAME=value a line, over what the live ones have
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// Label of the release [default: its tag]
    #[arg(long, value_name = "L", value_parser = release)]
    pub(crate) release: Option<Release>,
    /// Deploy it although it is live already, or was rolled back
    #[arg(long)]
    pub(crate) force: bool,
    /// Return as soon as it is begun
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Why, for the history
    #[arg(long, value_name = "W")]
    pub(crate) why: Option<String>,
    /// Repeat a command safely: the same id is done once, later its recorded result is given
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Strategy {
    /// All at once in the idle color, which is checked, switched to and watched
    BlueGreen,
    /// One after the other within the live color, each checked before an old one leaves
    Rolling,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OnOff {
    On,
    Off,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    /// Order a new certificate now and wait for it
    Renew {
        /// Host of a site with tls = "auto"
        host: String,
        /// Even if the one that is there is not due
        #[arg(long)]
        force: bool,
        /// Return when the order is begun
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Notify {
    /// Send a test to every target of notifications and say what each answered
    Test,
}

fn color(text: &str) -> Result<Color, String> {
    text.parse()
        .map_err(|error: crate::model::UnknownColor| error.to_string())
}

fn service(text: &str) -> Result<ServiceName, String> {
    nonempty(text).map(ServiceName::from)
}

fn release(text: &str) -> Result<Release, String> {
    nonempty(text).map(Release::from)
}

fn nonempty(text: &str) -> Result<&str, String> {
    if text.trim().is_empty() {
        Err("it is empty".to_owned())
    } else {
        Ok(text)
    }
}

/// `5%` or `0.05`: above 0 and below 1.
fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    match number.trim().parse::<f64>().map(|number| number / scale) {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("a share is more than 0% and less than 100%, such as 5% or 0.05".to_owned()),
    }
}

/// `500ms`, `3s`, `5m`, `1h`, as in the configuration.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
    {
        Some(millis) if millis > 0 => Ok(Duration::from_millis(millis)),
        _ => Err("a time is a whole number with ms, s, m or h, such as 15m".to_owned()),
    }
}

/// `Name: value`, as curl takes it.
fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if name.parse::<http::HeaderName>().is_ok() => {
            Ok((name.to_owned(), value.trim().to_owned()))
        }
        _ => Err("a header is `Name: value`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shares_and_times_are_read_as_in_the_configuration() {
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share("0.05"), Ok(0.05));
        for bad in ["0", "100%", "1", "-5%", "x", "", "nan", "inf%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in [
            "15",
            "m",
            "-1s",
            "1.5s",
            "0s",
            "99999999999999999999s",
            "1d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_canary_time_needs_a_canary() {
        let parse = |args: &[&str]| {
            Cli::try_parse_from([&["proxyctl", "switch", "green"], args].concat()).is_ok()
        };
        assert!(parse(&["--canary", "5%", "--for", "15m"]));
        assert!(!parse(&["--for", "15m"]));
    }
}
