//! The one table of failure codes. Supervisor, workers, API, command line and documentation use it; nothing else may make
//! a code up. A denial of the target (Kubernetes 403, AWS AccessDenied) is `target_forbidden` and keeps the target's own words.

use std::fmt;

/// Exit codes of `sysexits.h` that the table uses.
mod exit {
    pub(super) const GENERAL: i32 = 1;
    pub(super) const USAGE: i32 = 64;
    pub(super) const NO_INPUT: i32 = 66;
    pub(super) const UNAVAILABLE: i32 = 69;
    pub(super) const SOFTWARE: i32 = 70;
    pub(super) const TEMPFAIL: i32 = 75;
    pub(super) const NOPERM: i32 = 77;
    pub(super) const CONFIG: i32 = 78;
}

macro_rules! failures {
    ($($variant:ident $code:literal $grpc:ident $http:literal $exit:ident $sentence:literal $next:literal;)*) => {
        /// What can go wrong, as users see it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $sentence] $variant,)*
        }
        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The name that is sent, logged and documented.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
            /// The gRPC status code that carries it.
            pub const fn grpc(self) -> tonic::Code {
                match self { $(Self::$variant => tonic::Code::$grpc,)* }
            }
            /// The HTTP status of the API.
            pub const fn http(self) -> u16 {
                match self { $(Self::$variant => $http,)* }
            }
            /// The exit code of the command line.
            pub const fn exit(self) -> i32 {
                match self { $(Self::$variant => exit::$exit,)* }
            }
            /// What happened, in one sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
            /// What to do next, in one sentence.
            pub const fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }
            /// The code of that name, if the table has it.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

failures! {
    // requests
    InvalidArgument "invalid_argument" InvalidArgument 400 USAGE "The request is not well formed." "Correct what the message names and try again.";
    TooLarge "too_large" InvalidArgument 413 USAGE "The request or its content exceeds a limit." "Make it smaller; the message names the limit.";
    Unauthenticated "unauthenticated" Unauthenticated 401 NOPERM "The token is missing, wrong or expired." "Run `runnerctl login`.";
    PermissionDenied "permission_denied" PermissionDenied 403 NOPERM "This user may not do that." "Ask an administrator of the organization.";
    NotFound "not_found" NotFound 404 NO_INPUT "There is no such thing in this organization." "List what there is and check the name.";
    NotAcceptable "not_acceptable" InvalidArgument 406 USAGE "What is asked for cannot be answered in a form that the client takes." "Accept the form that the message names.";
    MethodNotAllowed "method_not_allowed" Unimplemented 405 USAGE "The path does not take this method." "Use a method that the answer's Allow header names.";
    Conflict "conflict" FailedPrecondition 409 GENERAL "It is not in a state in which that can be done." "Look at its present state and try again.";
    Busy "busy" ResourceExhausted 429 TEMPFAIL "A limit on work at once is reached." "Try again in a moment.";
    Internal "internal" Internal 500 SOFTWARE "Something failed that should not." "Look at the log of the program that the message names, and report it.";
    // reaching a runner
    RunnerUnavailable "runner_unavailable" Unavailable 503 UNAVAILABLE "No instance of the runner is connected and healthy." "Look at `runner status` on the runner's machine, or name another runner.";
    ConnectionLost "connection_lost" Unavailable 502 UNAVAILABLE "The connection to the runner was lost while the operation ran." "Check what the operation did, and run it again.";
    RunnerLeaving "runner_leaving" Unavailable 503 TEMPFAIL "The runner is shutting down or being drained, and takes nothing new." "Try again in a moment, or name another runner.";
    NoRunner "no_runner" FailedPrecondition 409 CONFIG "No runner is named and the organization has no default." "Name one with --runner, or run `runnerctl runner set-default`.";
    // workers and time
    WorkerCrashed "worker_crashed" Internal 502 SOFTWARE "The process that served the request ended unexpectedly." "Run it again; if it stays, report the signal that the message names.";
    WorkerOutOfMemory "worker_out_of_memory" ResourceExhausted 502 SOFTWARE "The process that served the request exceeded its memory limit." "Ask for less at once, or raise the limit in the runner's policy.";
    WorkerOutOfDisk "worker_out_of_disk" ResourceExhausted 502 SOFTWARE "The job took more of the runner's disk than it may." "Take less at once, or raise jobs.disk_mib or jobs.files of the runner.";
    DeadlineExceeded "deadline_exceeded" DeadlineExceeded 504 TEMPFAIL "The request was not done within its deadline." "Try again, or ask for less at once.";
    Cancelled "cancelled" Cancelled 499 GENERAL "The caller cancelled it." "Nothing to do.";
    FlowViolation "flow_violation" Internal 502 SOFTWARE "A peer sent more than it was granted." "Report it; one side has a bug.";
    // connections and targets
    UnknownConnection "unknown_connection" FailedPrecondition 409 CONFIG "The runner's configuration has no such entry." "Add the connection to the runner's configuration, or name one that it has.";
    WrongProvider "wrong_provider" FailedPrecondition 400 USAGE "The connection is of another provider." "Name a connection of the right provider.";
    CredentialsUnavailable "credentials_unavailable" FailedPrecondition 502 CONFIG "The connection's credentials could not be resolved on the runner." "Check the entry in the runner's configuration; the message names it.";
    CredentialsExpired "credentials_expired" FailedPrecondition 502 CONFIG "The connection's credentials have expired." "Renew them on the runner's side.";
    TargetUnreachable "target_unreachable" Unavailable 502 UNAVAILABLE "The runner could not reach the target." "Check the address and the network between runner and target.";
    TargetForbidden "target_forbidden" PermissionDenied 403 NOPERM "The target refused it to these credentials." "Give the connection's identity the right that the message names.";
    TargetNotFound "target_not_found" NotFound 404 NO_INPUT "The target has no such thing." "Check the name, and the namespace or region.";
    TargetRefused "target_refused" FailedPrecondition 422 GENERAL "The target did not accept the request." "Correct what the target's message names.";
    TargetFailed "target_failed" Unavailable 502 UNAVAILABLE "The target answered with a failure of its own." "Try again; look at the target's health if it stays.";
    TargetThrottled "target_throttled" ResourceExhausted 429 TEMPFAIL "The target asks to slow down." "Try again in a while.";
    TargetLost "target_lost" Unavailable 502 UNAVAILABLE "The connection to the target ended early." "Try again.";
    // identity
    CertificateMissing "certificate_missing" Unauthenticated 401 NOPERM "No client certificate was presented." "Use the credentials file that was generated for this runner.";
    UnknownCa "unknown_ca" Unauthenticated 401 NOPERM "The certificate was issued by a CA that the other end does not know." "Use a credentials file of this control plane.";
    CertificateExpired "certificate_expired" Unauthenticated 401 NOPERM "The certificate has expired." "Generate new credentials with `runnerctl runner generate-credentials`.";
    CertificateNotYetValid "certificate_not_yet_valid" Unauthenticated 401 NOPERM "The certificate is not valid yet." "Check this machine's clock; otherwise wait until the certificate's first day.";
    ClockSkew "clock_skew" Unauthenticated 401 CONFIG "The clocks of runner and control plane disagree." "Set this machine's clock, for instance with NTP.";
    CertificatePurpose "certificate_purpose" Unauthenticated 401 NOPERM "A certificate was used for what it was not issued for." "Use the runner's own credentials file, and the control plane's own server certificate.";
    CertificateInvalid "certificate_invalid" Unauthenticated 401 NOPERM "The certificate was refused." "Generate new credentials with `runnerctl runner generate-credentials`.";
    CertificateOrganization "certificate_organization" PermissionDenied 403 NOPERM "The certificate's organization is not that of its issuer." "Generate new credentials with `runnerctl runner generate-credentials`.";
    OrganizationMismatch "organization_mismatch" PermissionDenied 403 NOPERM "The session is for another organization or runner than the certificate's." "Use a credentials file as it was generated; do not mix parts of two.";
    CertificateRevoked "certificate_revoked" PermissionDenied 403 NOPERM "The runner or its certificate was revoked." "Register a new runner with `runnerctl runner register` and generate credentials for it; what is revoked stays revoked.";
    UnknownRunner "unknown_runner" PermissionDenied 403 NOPERM "The control plane does not know this runner." "Register the runner again.";
    ApiKeyInvalid "api_key_invalid" Unauthenticated 401 NOPERM "The API key is not known." "Generate new credentials with `runnerctl runner generate-credentials`.";
    ApiKeyOtherRunner "api_key_other_runner" PermissionDenied 403 NOPERM "The API key belongs to another runner." "Use a credentials file as it was generated; do not mix parts of two.";
    InstanceConflict "instance_conflict" FailedPrecondition 409 CONFIG "Another live session has the same instance id." "Give each instance a state directory of its own; stop the other one.";
    UnsupportedVersion "unsupported_version" FailedPrecondition 409 CONFIG "The two ends do not speak a common version." "Upgrade the older one.";
    ServerUntrusted "server_untrusted" Unauthenticated 502 CONFIG "The control plane's certificate was not accepted." "Check the endpoint, and whether something between re-signs TLS.";
    // the credentials file
    CredentialsUnreadable "credentials_unreadable" FailedPrecondition 500 CONFIG "The credentials file cannot be read." "Check its path and its owner.";
    CredentialsPermissions "credentials_permissions" FailedPrecondition 500 CONFIG "The credentials file can be read by others." "Run `chmod 600` on it; one that is root's may have 640 and a group of the runner's.";
    CredentialsMalformed "credentials_malformed" FailedPrecondition 500 CONFIG "The credentials file is not whole." "Generate it again, or copy it again.";
    CredentialsVersion "credentials_version" FailedPrecondition 500 CONFIG "The credentials file is of a version that this runner does not know." "Upgrade the runner.";
    CredentialsMismatch "credentials_mismatch" FailedPrecondition 500 CONFIG "Key and certificate in the credentials file do not belong together." "Use the file as it was generated; do not mix parts of two.";
    // the way to the control plane
    DialFailed "dial_failed" Unavailable 502 UNAVAILABLE "The control plane could not be reached." "Check the endpoint, DNS and the firewall.";
    ProxyRefused "proxy_refused" Unavailable 502 UNAVAILABLE "The proxy refused the connection." "Check the proxy's rules and its user and password.";
    ProxyFailed "proxy_failed" Unavailable 502 UNAVAILABLE "The proxy did not answer as a CONNECT proxy does." "Check the proxy's address and kind.";
    // jobs
    SourceRefused "source_refused" FailedPrecondition 422 GENERAL "The source was refused." "Correct what the message names.";
    SourceUnavailable "source_unavailable" Unavailable 502 UNAVAILABLE "The source could not be fetched." "Check its address, reference and the runner's access to it.";
    SecretTooShort "secret_too_short" FailedPrecondition 422 CONFIG "A secret variable is too short to be taken out of what the job records." "Give it at least eight bytes, or say that it stays: `--not-redacted NAME`.";
    UnknownSecretStore "unknown_secret_store" FailedPrecondition 409 CONFIG "The runner's configuration has no such store of secrets." "Add it as `[secrets.NAME]` to the runner's configuration, or name one that it has.";
    SecretDenied "secret_denied" PermissionDenied 403 NOPERM "The store's entry in the runner's configuration does not allow this path." "Ask whoever owns the runner to add it to the entry's `allow`, or refer to a path that it allows.";
    SealedUnreadable "sealed_unreadable" FailedPrecondition 409 CONFIG "A sealed variable cannot be opened on this instance of the runner." "Seal it again for the instances that there are now: `runnerctl stack seal STACK NAME`.";
    SealKeyUnknown "seal_key_unknown" FailedPrecondition 409 NOPERM "A key of the runner for sealed variables is not one that is known." "Compare it with what `runner seal-key` says on the runner's host, then name it: `--seal-key FINGERPRINT`.";
    EngineMissing "engine_missing" FailedPrecondition 409 CONFIG "The runner has no such engine." "Take an engine that the runner has, with `--engine terraform` or `--engine opentofu`; or install it there, or name its path under `[engines]` in the runner's configuration.";
    EngineVersionMissing "engine_version_missing" FailedPrecondition 409 CONFIG "No version of the engine that the runner has is one that all who ask for one allow." "Install one on the runner with `runner engines install`, or change what asks for another.";
    EngineFailed "engine_failed" FailedPrecondition 422 GENERAL "The engine ended with an error." "Read its diagnostics.";
    TimeLimit "time_limit" DeadlineExceeded 504 GENERAL "A step of the job took longer than it may." "Look at the job's last events for what it waited for. More time is given by `runnerctl stack update STACK --limit`, or by the runner's configuration.";
    InputMissing "input_missing" FailedPrecondition 409 GENERAL "A variable is an output of another stack, and there is no such value." "Deploy the stack that it is of first, or give the variable with --var.";
    HookFailed "hook_failed" FailedPrecondition 422 GENERAL "A hook of the stack failed." "Read what it said, in the job's output; the message says whether anything was changed.";
    PlanExpired "plan_expired" FailedPrecondition 409 GENERAL "The plan waited longer for its approval than it may." "Start a new job; nothing was changed.";
    PlanStale "plan_stale" FailedPrecondition 409 GENERAL "The approved plan is no longer what would be applied." "Start a new job.";
    PlanDenied "plan_denied" FailedPrecondition 409 NOPERM "A rule denies what the plan would do." "Change the configuration so that the plan does not do it; or ask whoever keeps the rule that the message names.";
    StateElsewhere "state_elsewhere" FailedPrecondition 409 CONFIG "The stack's state is somewhere else." "Run the job where the state is: the message says where.";
    StackNotEmpty "stack_not_empty" FailedPrecondition 409 GENERAL "What the stack made was not destroyed." "Destroy it first with a job of the kind destroy; or delete the stack with `--force`, and what it made stays.";
    Fenced "fenced" FailedPrecondition 409 GENERAL "The job was assigned again with a newer fencing token." "Nothing to do; the newer assignment goes on.";
    StateLocked "state_locked" FailedPrecondition 409 TEMPFAIL "The lock of the stack's state is somebody else's." "Look at what is known of its holder: `runnerctl state lock STACK`.";
    StateDamaged "state_damaged" DataLoss 422 SOFTWARE "A version of the stack's state cannot be read." "Go back to an earlier version: `runnerctl state versions STACK`, then `runnerctl state rollback`; keep the file for a report.";
    JobLost "job_lost" DataLoss 500 SOFTWARE "The job's processes are gone and nothing tells how it ended." "Look at the last events and the state before you start another.";
    SpoolDamaged "spool_damaged" DataLoss 500 SOFTWARE "The job's spool cannot be read as a whole." "Look at the job's last events; keep the spool for a report.";
    DiskFull "disk_full" ResourceExhausted 507 TEMPFAIL "The disk of the runner, or of the control plane, is full." "Free space in the runner's state directory, or in the control plane's data folder; the message says which.";
    DiskUnwritable "disk_unwritable" Unavailable 507 TEMPFAIL "The disk of the control plane cannot be written." "Mount it writable again, or see to what its system's log says of it; the control plane goes on by itself then.";
    // isolation and policy
    IsolationTooWeak "isolation_too_weak" FailedPrecondition 409 CONFIG "This machine does not allow the isolation that the configuration requires." "Run on a kernel with Landlock and seccomp, which containers usually allow; or write a lower isolation.require down.";
    ConfigurationUnusable "configuration_unusable" FailedPrecondition 500 CONFIG "The runner's configuration, or a file that it names, cannot be used." "Correct what the message names.";
    StateUnusable "state_unusable" FailedPrecondition 409 CONFIG "The runner's state directory, or the place where it keeps states, cannot be used." "Name a directory with --state-dir or state_dir that the runner's user may write; look at [jobs.states] where the message names another place.";
    PolicyDenied "policy_denied" PermissionDenied 403 NOPERM "The runner's own policy refuses it." "Ask whoever owns the runner's policy; the message names the rule.";
    HooksRefused "hooks_refused" PermissionDenied 403 NOPERM "The stack has hooks, and the runner's configuration does not let any run." "Ask whoever owns the runner to write `hooks = true` under [jobs] of its configuration; or take them away with `runnerctl stack update STACK --hook NAME=none`.";
    AuditUnavailable "audit_unavailable" Unavailable 503 UNAVAILABLE "The runner cannot write its audit log, and does nothing that is not in it." "See to the disk of the runner's state directory, or let it go on with audit.on_failure = \"open\".";
    NotRecorded "not_recorded" FailedPrecondition 409 UNAVAILABLE "The policy has terminals recorded, and this one cannot be, or not any further." "Ask whoever owns the runner: the message says what its recordings lack.";
    MaskedWrite "masked_write" FailedPrecondition 422 USAGE "The write would put a mask in the place of a secret's value." "Write only what changes, from a source that has the real values.";
    MaskedRead "masked_read" PermissionDenied 403 NOPERM "The request would read a value that is masked." "Ask whoever owns the runner's policy; or read what is shown.";
    TlsInspected "tls_inspected" Unauthenticated 502 CONFIG "Something between re-signs TLS." "Exempt the control plane's host from inspection; the message names the issuer.";
}

/// A failure with its code, what it happened to, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub code: Code,
    /// What failed, on what; one line, no secret.
    pub message: String,
    /// What to do next; the code's own step unless there is a better one.
    pub next_step: String,
}

// === impl Code ===

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Code {
    /// A failure of this code on something.
    pub fn on(self, message: impl Into<String>) -> Failure {
        Failure { code: self, message: message.into(), next_step: self.next_step().to_owned() }
    }
}

// === impl Failure ===

impl Failure {
    /// The same with a better next step.
    #[must_use]
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next_step = step.into();
        self
    }
    /// As the last message of an operation.
    pub fn outcome(&self) -> crate::v1::Outcome {
        crate::v1::Outcome {
            code: self.code.as_str().to_owned(),
            message: self.message.clone(),
            next_step: self.next_step.clone(),
            ..Default::default()
        }
    }
    /// From a code's name as it was sent; a name that this version does not know becomes `internal` and is kept in the message.
    pub fn from_wire(code: &str, message: &str, next_step: &str) -> Self {
        match Code::from_name(code) {
            Some(code) => Self {
                code,
                message: message.to_owned(),
                next_step: if next_step.is_empty() { code.next_step().to_owned() } else { next_step.to_owned() },
            },
            None => Self {
                code: Code::Internal,
                message: format!("{code}: {message}"),
                next_step: if next_step.is_empty() {
                    Code::Internal.next_step().to_owned()
                } else {
                    next_step.to_owned()
                },
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.code, self.message, self.next_step)
    }
}
impl std::error::Error for Failure {}

impl From<Failure> for tonic::Status {
    /// The code's name travels in the metadata `runner-code`, the next step in `runner-next-step`.
    fn from(f: Failure) -> Self {
        let mut status = Self::new(f.code.grpc(), f.message);
        status.metadata_mut().insert("runner-code", tonic::metadata::MetadataValue::from_static(f.code.as_str()));
        if let Ok(step) = f.next_step.parse() {
            status.metadata_mut().insert("runner-next-step", step);
        }
        status
    }
}

impl Failure {
    /// The failure that a status carries, if the peer put one in.
    pub fn from_status(status: &tonic::Status) -> Option<Self> {
        let name = status.metadata().get("runner-code")?.to_str().ok()?;
        let step = status.metadata().get("runner-next-step").and_then(|s| s.to_str().ok()).unwrap_or_default();
        Some(Self::from_wire(name, status.message(), step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn names_are_unique_and_come_back() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert_eq!(Code::from_name(code.as_str()), Some(*code));
            assert!(code.sentence().ends_with('.') && code.next_step().ends_with('.'), "{code}");
            assert!((400..600).contains(&code.http()), "{code}");
        }
        assert_eq!(Code::from_name("ok"), None);
    }
    /// `UPDATE_DOCS=1 cargo test -p shared-proto` writes the page anew.
    #[test]
    fn the_documentation_has_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/failure-codes.md");
        let mut page = String::from(
            "# Failure codes\n\nThe one table that runner, control plane, API and command line use. It is written from \
             `shared-proto/src/failure.rs`;\na test fails when the two differ.\n\n\
             | code | HTTP | exit | what happened | what to do |\n|---|---|---|---|---|\n",
        );
        for code in Code::ALL {
            page += &format!(
                "| `{code}` | {} | {} | {} | {} |\n",
                code.http(),
                code.exit(),
                code.sentence(),
                code.next_step()
            );
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).expect("writes");
        }
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page, "run it with UPDATE_DOCS=1");
    }
    #[test]
    fn a_status_carries_the_failure() {
        let failure = Code::Fenced.on("job 1").next("Look at job 2.");
        assert_eq!(Failure::from_status(&failure.clone().into()), Some(failure));
        assert_eq!(Failure::from_status(&tonic::Status::internal("x")), None);
    }
    #[test]
    fn what_to_do_about_a_missing_engine() {
        for part in ["--engine terraform", "--engine opentofu", "[engines]"] {
            assert!(Code::EngineMissing.next_step().contains(part), "{part}");
        }
    }
    #[test]
    fn an_unknown_code_is_kept_in_words() {
        let failure = Failure::from_wire("brand_new", "on x", "");
        assert_eq!((failure.code, failure.message.as_str()), (Code::Internal, "brand_new: on x"));
    }
}
