//! Progress on standard error, only where somebody sees it, and only of what takes a while: what is done at once does not flash.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// What is done within this shows nothing.
const PATIENCE: Duration = Duration::from_millis(300);
/// Between two pictures of a spinner.
const TICK: Duration = Duration::from_millis(120);

/// A spinner with a message; hidden where standard error is no terminal.
pub(crate) fn spinner(message: impl Into<String>) -> ProgressBar {
    shown_late(None, "{spinner} {msg}", super::escape::line(&message.into()), ProgressDrawTarget::stderr())
}

/// A bar over bytes.
pub(crate) fn bytes(total: u64, message: &'static str) -> ProgressBar {
    let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
    shown_late(Some(total), template, message.to_owned(), ProgressDrawTarget::stderr())
}

/// A bar over the resources of an apply, below its words.
pub(crate) fn resources(total: u64) -> ProgressBar {
    shown_late(Some(total), "{bar:30} {pos}/{len} {wide_msg}", String::new(), ProgressDrawTarget::stderr())
}

/// Draws on `target` once [`PATIENCE`] is over, unless it has ended by then.
fn shown_late(total: Option<u64>, template: &str, message: String, target: ProgressDrawTarget) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()).with_message(message);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if !target.is_hidden() {
        let later = bar.downgrade();
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            if let Some(bar) = later.upgrade().filter(|bar| !bar.is_finished()) {
                bar.set_draw_target(target);
                bar.enable_steady_tick(TICK);
            }
        });
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A terminal that remembers what was written.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl Terminal {
        fn written(&self) -> String {
            self.0.lock().expect("not poisoned").clone()
        }
        fn target(&self) -> ProgressDrawTarget {
            ProgressDrawTarget::term_like(Box::new(self.clone()))
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().expect("not poisoned").push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_done_at_once_shows_nothing_and_what_takes_longer_does() {
        let (fast, slow) = (Terminal::default(), Terminal::default());
        let quick = shown_late(None, "{spinner} {msg}", "fast".into(), fast.target());
        let long = shown_late(Some(10), "{msg} {pos}", "slow".into(), slow.target());
        quick.tick();
        quick.finish_and_clear();
        long.inc(3);
        assert_eq!(slow.written(), "");
        // the picture is drawn by another thread
        for _ in 0..100 {
            if !slow.written().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(slow.written().contains("slow 3"), "{:?}", slow.written());
        long.finish_and_clear();
        assert_eq!(fast.written(), "");
    }
}
