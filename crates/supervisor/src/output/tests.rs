use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Folders on each kind of file system there is here: one that can collapse files and one that cannot.
fn folders() -> Vec<tempfile::TempDir> {
    let mut folders = vec![tempfile::tempdir().unwrap()];
    folders.extend(tempfile::tempdir_in("/dev/shm"));
    folders
}

fn append(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

/// All there is, from the oldest file to the live one, without holes at the front.
fn stream(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for number in (0..1000).rev() {
        if let Ok(file) = open_reading(&numbered(path, number)) {
            read_from(&file, 0, &mut text).unwrap();
        }
    }
    text
}

fn lines(range: std::ops::Range<usize>) -> Vec<u8> {
    range.flat_map(|n| format!("line {n} of a log that is not short\n").into_bytes()).collect()
}

#[test]
fn writers_lose_no_line_while_their_file_is_rotated_under_them() {
    const WRITERS: usize = 4;
    const LINES: usize = 20_000;
    for folder in folders() {
        let path = folder.path().join("p.log");
        let logs = Logs::new(Limits { bytes: 32 << 10, age: None, keep: 1000 });
        drop(append(&path));
        let mut follow = logs.follow(&path);
        let over = AtomicBool::new(false);
        let mut followed = Vec::new();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let mut file = append(&path);
                    scope.spawn(move || {
                        for n in 0..LINES {
                            // One write for each line, as programs do.
                            file.write_all(format!("writer {writer} line {n}\n").as_bytes()).unwrap();
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    logs.rotate(&path).unwrap();
                }
            });
            while writers.iter().any(|writer| !writer.is_finished()) {
                followed.extend(follow.read().unwrap());
            }
            over.store(true, Ordering::Relaxed);
        });
        logs.rotate(&path).unwrap();
        followed.extend(follow.read().unwrap());
        assert!(numbered(&path, 10).exists(), "it was not rotated");
        let text = String::from_utf8(stream(&path)).unwrap();
        for writer in 0..WRITERS {
            let prefix = format!("writer {writer} ");
            let own: Vec<&str> = text.lines().filter(|line| line.starts_with(&prefix)).collect();
            assert_eq!(own.len(), LINES, "writer {writer} in {path:?}");
            assert!(own.iter().enumerate().all(|(n, line)| *line == format!("writer {writer} line {n}")));
        }
        assert_eq!(text.lines().count(), WRITERS * LINES);
        assert!(followed == text.as_bytes(), "a reader saw something else in {path:?}");
        let live = fs::metadata(&path).unwrap();
        assert!(live.blocks() * 512 < (128 << 10), "{} bytes are still held", live.blocks() * 512);
    }
}

#[test]
fn a_rotation_that_was_killed_at_any_step_is_finished_or_undone() {
    for folder in folders() {
        let whole = lines(0..1000);
        for step in 0..5 {
            let path = folder.path().join(format!("{step}.log"));
            append(&path).write_all(&whole).unwrap();
            let (file, end) = (open(&path).unwrap(), 8192);
            if step == 0 {
                // Half of the copy.
                fs::write(rotating(&path, 0), &whole[..5000]).unwrap();
            } else {
                copy(&file, &rotating(&path, 0), 0..end).unwrap();
            }
            if step == 2 {
                // The kernel went down in the middle of it.
                punch(&file, 4096..end).unwrap();
            } else if step > 2 {
                punch(&file, 0..end).unwrap();
            }
            if step > 3 {
                archive(&path, &rotating(&path, 0), 5).unwrap();
            }
            append(&path).write_all(b"after\n").unwrap();
            Logs::new(Limits { bytes: 1 << 20, ..Limits::default() }).rotate(&path).unwrap();
            let expected = [whole.as_slice(), b"after\n"].concat();
            assert!(stream(&path) == expected, "step {step} in {path:?}");
            assert!(!rotating(&path, 0).exists());
        }
    }
}

#[test]
fn only_so_many_files_are_kept_and_the_youngest_has_number_one() {
    for folder in folders() {
        let path = folder.path().join("p.log");
        let logs = Logs::new(Limits { bytes: 4096, age: None, keep: 2 });
        append(&path).write_all(&lines(0..2000)).unwrap();
        logs.rotate(&path).unwrap();
        assert!(numbered(&path, 1).exists() && numbered(&path, 2).exists() && !numbered(&path, 3).exists());
        let (text, all) = (stream(&path), lines(0..2000));
        assert!(text.len() < all.len() && all.ends_with(&text));
        assert_eq!(fs::metadata(numbered(&path, 1)).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn an_old_file_is_rotated_however_small_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.log");
    append(&path).write_all(&lines(0..300)).unwrap();
    let logs = |age| Logs::new(Limits { bytes: 1 << 20, age, keep: 2 });
    logs(Some(Duration::from_secs(3600))).rotate(&path).unwrap();
    assert!(!numbered(&path, 1).exists());
    logs(Some(Duration::ZERO)).rotate(&path).unwrap();
    assert!(numbered(&path, 1).exists());
    assert!(stream(&path) == lines(0..300));
}

#[test]
fn the_last_lines_are_found_across_files_and_those_of_one_run_apart() {
    for folder in folders() {
        let path = folder.path().join("p.log");
        let logs = Logs::new(Limits { bytes: 8192, age: None, keep: 9 });
        append(&path).write_all(&lines(0..500)).unwrap();
        logs.rotate(&path).unwrap();
        assert!(numbered(&path, 1).exists());
        let last = logs.last_lines(&path, 400, 0).unwrap();
        assert_eq!(last.len(), 400);
        assert_eq!(last.first().map(String::as_str), Some("line 100 of a log that is not short"));
        assert_eq!(last.last().map(String::as_str), Some("line 499 of a log that is not short"));
        let position = logs.position(&path);
        assert!(logs.last_lines(&path, 10, position).unwrap().is_empty());
        append(&path).write_all(b"panicked\nat once").unwrap();
        assert_eq!(logs.last_lines(&path, 10, position).unwrap(), ["panicked", "at once"]);
        assert!(logs.last_lines(&folder.path().join("none.log"), 10, 0).unwrap().is_empty());
    }
}

#[test]
fn a_follower_goes_through_rotations_and_new_files() {
    for folder in folders() {
        let path = folder.path().join("p.log");
        let logs = Logs::new(Limits { bytes: 4096, age: None, keep: 9 });
        append(&path).write_all(b"before\n").unwrap();
        let mut follow = logs.follow(&path);
        assert!(follow.read().unwrap().is_empty());
        append(&path).write_all(&lines(0..100)).unwrap();
        let mut got = follow.read().unwrap();
        append(&path).write_all(&lines(100..200)).unwrap();
        logs.rotate(&path).unwrap();
        got.extend(follow.read().unwrap());
        append(&path).write_all(&lines(200..210)).unwrap();
        logs.settle(&path).unwrap();
        fs::rename(&path, folder.path().join("moved")).ok();
        append(&path).write_all(&lines(210..220)).unwrap();
        got.extend(follow.read().unwrap());
        assert!(got == lines(0..220), "{}", String::from_utf8_lossy(&got));
    }
}

#[test]
fn a_follower_that_comes_late_misses_and_repeats_nothing_however_often_the_file_was_rotated_and_put_aside() {
    for folder in folders() {
        let path = folder.path().join("p.log");
        let logs = Logs::new(Limits { bytes: 4096, age: None, keep: 99 });
        append(&path).write_all(&lines(0..100)).unwrap();
        let mut follow = logs.follow(&path);
        let mut written = 100;
        let mut write = |more: usize| {
            append(&path).write_all(&lines(written..written + more)).unwrap();
            written += more;
        };
        // Its process is started anew, and the next one writes much at once.
        write(50);
        logs.settle(&path).unwrap();
        write(300);
        logs.rotate(&path).unwrap();
        assert!(follow.read().unwrap() == lines(100..450), "{path:?}");
        // Several are, and all of them do.
        for _ in 0..3 {
            write(300);
            logs.rotate(&path).unwrap();
            write(200);
            logs.settle(&path).unwrap();
            write(10);
        }
        assert!(follow.read().unwrap() == lines(450..1980), "{path:?}");
        // One goes on writing to what was put aside.
        let mut former = append(&path);
        write(200);
        logs.settle(&path).unwrap();
        former.write_all(&lines(2180..2190)).unwrap();
        append(&path).write_all(&lines(2190..2400)).unwrap();
        logs.rotate(&path).unwrap();
        assert!(follow.read().unwrap() == lines(1980..2400), "{path:?}");
        assert!(follow.read().unwrap().is_empty() && stream(&path) == lines(0..2400));
    }
}

#[test]
fn a_file_that_begins_with_a_hole_is_put_aside_at_the_next_start() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let path = folder.path().join("p.log");
    let logs = Logs::new(Limits { bytes: 4096, age: None, keep: 9 });
    append(&path).write_all(&lines(0..200)).unwrap();
    logs.rotate(&path).unwrap();
    logs.settle(&path).unwrap();
    assert!(!path.exists());
    append(&path).write_all(&lines(200..210)).unwrap();
    assert!(stream(&path) == lines(0..210));
    logs.settle(&path).unwrap();
    assert!(path.exists(), "a short file stays");
}

#[test]
fn files_of_processes_that_are_no_more_go_after_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for name in ["a-stdout.log", "a-stdout.log.1", "ab-stdout.log", "b-stdout.log.2", "notes"] {
        fs::write(file(name), "x").unwrap();
    }
    let known = BTreeSet::from([file("a-stdout.log")]);
    let logs = Logs::default();
    assert_eq!(logs.forget(folder.path(), &known, Duration::from_secs(60)).unwrap(), 0);
    assert_eq!(logs.forget(folder.path(), &known, Duration::ZERO).unwrap(), 2);
    assert!(file("a-stdout.log").exists() && file("a-stdout.log.1").exists() && file("notes").exists());
}
