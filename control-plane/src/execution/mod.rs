//! The execution service: hands out jobs and takes their events.
