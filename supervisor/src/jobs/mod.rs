//! Infrastructure jobs: the supervisor's half of them.
