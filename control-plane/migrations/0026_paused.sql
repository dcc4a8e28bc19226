-- Whoever is told of everything is told of schedules that are paused because of failures, too.
UPDATE notifications SET events = events || ',schedule_paused'
    WHERE events = 'drift_found,drift_gone,job_waits,job_failed,job_applied';
