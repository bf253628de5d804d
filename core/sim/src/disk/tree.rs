//! Names: directories, and which file each name means, now and after a power loss.
//!
//! A change of a name is visible at once and durable only when its directory has been synced.
//! Until then a power loss may keep it or not, each change by itself, but never half of one:
//! a rename takes both its edits or none. Syncing a directory also settles earlier changes that
//! touch the same names, as a journaling file system would.
//!
//! Start reading at [`Tree::change`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use tidemill_runtime::edge::Fault;

use crate::random::Random;

/// The number of a file or directory, never used twice.
pub(crate) type Inode = u64;

/// The data directory itself: always there.
pub(crate) const ROOT: Inode = 0;

const NOT_A_DIRECTORY: Fault = Fault::Other(20);
const IS_A_DIRECTORY: Fault = Fault::Other(21);
const NOT_EMPTY: Fault = Fault::Other(39);

/// One name in one directory.
type Name = (Inode, String);

/// All directories of the disk.
#[derive(Debug)]
pub(crate) struct Tree {
    dirs: BTreeSet<Inode>,
    now: BTreeMap<Name, Inode>,
    durable: BTreeMap<Name, Inode>,
    pending: Vec<Change>,
    next_inode: Inode,
}

/// A change of names that is not durable yet.
#[derive(Debug)]
struct Change {
    version: u64,
    edits: Vec<(Name, Option<Inode>)>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            dirs: BTreeSet::from([ROOT]),
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            next_inode: ROOT + 1,
        }
    }

    /// What `path` means now.
    pub(crate) fn find(&self, path: &Path) -> Result<Inode, Fault> {
        let mut found = ROOT;
        for name in names(path) {
            if !self.dirs.contains(&found) {
                return Err(NOT_A_DIRECTORY);
            }
            found = *self.now.get(&(found, name)).ok_or(Fault::NotFound)?;
        }
        Ok(found)
    }

    /// The directory `path` means now.
    pub(crate) fn find_dir(&self, path: &Path) -> Result<Inode, Fault> {
        let found = self.find(path)?;
        if self.dirs.contains(&found) { Ok(found) } else { Err(NOT_A_DIRECTORY) }
    }

    /// The file `path` means now.
    pub(crate) fn find_file(&self, path: &Path) -> Result<Inode, Fault> {
        let found = self.find(path)?;
        if self.dirs.contains(&found) { Err(IS_A_DIRECTORY) } else { Ok(found) }
    }

    /// Makes a directory; no error if it exists.
    pub(crate) fn make_dir(&mut self, path: &Path, version: u64) -> Result<(), Fault> {
        match self.find(path) {
            Ok(found) if self.dirs.contains(&found) => Ok(()),
            Ok(_) => Err(Fault::Other(17)),
            Err(Fault::NotFound) => {
                let made = self.make_name(path, version)?;
                self.dirs.insert(made);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    /// Gives a new inode the name `path`, whose directory exists.
    pub(crate) fn make_name(&mut self, path: &Path, version: u64) -> Result<Inode, Fault> {
        let name = self.name(path)?;
        let made = self.next_inode;
        self.next_inode += 1;
        self.change(version, vec![(name, Some(made))]);
        Ok(made)
    }

    /// Removes the name of a file; no error if it is missing.
    pub(crate) fn remove_file(&mut self, path: &Path, version: u64) -> Result<(), Fault> {
        match self.find_file(path) {
            Ok(_) => {
                let name = self.name(path)?;
                self.change(version, vec![(name, None)]);
                Ok(())
            }
            Err(Fault::NotFound) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Removes an empty directory.
    pub(crate) fn remove_dir(&mut self, path: &Path, version: u64) -> Result<(), Fault> {
        let dir = self.find_dir(path)?;
        if self.entries(dir).next().is_some() {
            return Err(NOT_EMPTY);
        }
        let name = self.name(path)?;
        self.change(version, vec![(name, None)]);
        Ok(())
    }

    /// Moves a name, replacing a file that had the new one.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path, version: u64) -> Result<(), Fault> {
        let moved = self.find(from)?;
        match self.find(to) {
            Ok(there) if self.dirs.contains(&there) => return Err(IS_A_DIRECTORY),
            Ok(_) | Err(Fault::NotFound) => {}
            Err(fault) => return Err(fault),
        }
        let edits = vec![(self.name(from)?, None), (self.name(to)?, Some(moved))];
        self.change(version, edits);
        Ok(())
    }

    /// The names in a directory now, with what they mean.
    pub(crate) fn entries(&self, dir: Inode) -> impl Iterator<Item = (&str, Inode)> {
        self.now
            .range((dir, String::new())..(dir + 1, String::new()))
            .map(|((_, name), inode)| (name.as_str(), *inode))
    }

    pub(crate) fn is_dir(&self, inode: Inode) -> bool {
        self.dirs.contains(&inode)
    }

    /// Makes the changes of one directory up to `version` durable.
    pub(crate) fn sync_dir(&mut self, dir: Inode, version: u64) {
        let mut settled: BTreeSet<Name> = BTreeSet::new();
        let mut durable = vec![false; self.pending.len()];
        // From the newest to the oldest: a change also settles older ones of the same names.
        for (change, durable) in self.pending.iter().zip(&mut durable).rev() {
            let asked =
                change.version <= version && change.edits.iter().any(|edit| edit.0.0 == dir);
            if asked || change.edits.iter().any(|edit| settled.contains(&edit.0)) {
                *durable = true;
                settled.extend(change.edits.iter().map(|edit| edit.0.clone()));
            }
        }
        self.settle(&durable);
    }

    /// Makes all changes up to `version` durable.
    pub(crate) fn sync_all(&mut self, version: u64) {
        let durable: Vec<bool> = self.pending.iter().map(|c| c.version <= version).collect();
        self.settle(&durable);
    }

    /// A power loss: changes that were not durable are kept or dropped.
    pub(crate) fn lose_power(&mut self, random: &mut Random) {
        let kept = match random.below(4) {
            0 => vec![false; self.pending.len()],
            1 => vec![true; self.pending.len()],
            2 => {
                let kept = random.between(0, self.pending.len() as u64) as usize;
                (0..self.pending.len()).map(|place| place < kept).collect()
            }
            _ => self.pending.iter().map(|_| random.coin()).collect(),
        };
        self.settle(&kept);
        self.pending.clear();
        self.now = self.durable.clone();
        let reachable = self.reachable(&self.now);
        self.now.retain(|(dir, _), _| reachable.contains(dir));
        self.durable.clone_from(&self.now);
        self.dirs.retain(|dir| reachable.contains(dir));
    }

    /// Every inode some name means now or may mean again after a power loss.
    pub(crate) fn referenced(&self) -> BTreeSet<Inode> {
        let pending = self.pending.iter().flat_map(|change| &change.edits);
        let names = self.now.values().chain(self.durable.values()).copied();
        names.chain(pending.filter_map(|edit| edit.1)).chain([ROOT]).collect()
    }

    fn change(&mut self, version: u64, edits: Vec<(Name, Option<Inode>)>) {
        apply(&mut self.now, &edits);
        self.pending.push(Change { version, edits });
    }

    fn settle(&mut self, durable: &[bool]) {
        let mut place = 0;
        let kept = &mut self.durable;
        self.pending.retain(|change| {
            let settled = durable[place];
            place += 1;
            if settled {
                apply(kept, &change.edits);
            }
            !settled
        });
    }

    fn name(&self, path: &Path) -> Result<Name, Fault> {
        let mut names = names(path);
        let last = names.pop().expect("the data directory itself is never made or removed");
        let dir = self.find_dir(&names.iter().collect::<std::path::PathBuf>())?;
        Ok((dir, last))
    }

    fn reachable(&self, names: &BTreeMap<Name, Inode>) -> BTreeSet<Inode> {
        let mut reached = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(dir) = open.pop() {
            for (_, inode) in names.range((dir, String::new())..(dir + 1, String::new())) {
                if reached.insert(*inode) && self.dirs.contains(inode) {
                    open.push(*inode);
                }
            }
        }
        reached
    }
}

fn apply(names: &mut BTreeMap<Name, Inode>, edits: &[(Name, Option<Inode>)]) {
    for (name, inode) in edits {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

/// The parts of a path below the data directory.
fn names(path: &Path) -> Vec<String> {
    let named = |part: Component<'_>| match part {
        Component::RootDir | Component::CurDir => None,
        Component::Normal(name) => {
            Some(name.to_str().expect("the broker names its files in ASCII").to_owned())
        }
        Component::ParentDir | Component::Prefix(_) => panic!("a path that climbs: {path:?}"),
    };
    path.components().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rename is kept or dropped by a power loss as a whole: a name is never lost on the way.
    #[test]
    fn a_rename_is_atomic() {
        for seed in 0..200 {
            let mut tree = Tree::new();
            let old = tree.make_name(Path::new("now"), 1).unwrap();
            let new = tree.make_name(Path::new("next"), 2).unwrap();
            tree.sync_dir(ROOT, 2);
            tree.rename(Path::new("next"), Path::new("now"), 3).unwrap();
            tree.lose_power(&mut Random::new(seed));
            let next = tree.find(Path::new("next"));
            match tree.find(Path::new("now")).unwrap() {
                found if found == old => assert_eq!(next, Ok(new)),
                found => assert_eq!((found, next), (new, Err(Fault::NotFound))),
            }
        }
    }

    /// What was synced after a series of changes to one name is the last of them, for good.
    #[test]
    fn syncing_settles_older_changes_of_the_same_names() {
        for seed in 0..200 {
            let mut tree = Tree::new();
            tree.make_dir(Path::new("a"), 1).unwrap();
            tree.make_dir(Path::new("b"), 2).unwrap();
            tree.sync_dir(ROOT, 2);
            tree.make_name(Path::new("a/x"), 3).unwrap();
            tree.rename(Path::new("a/x"), Path::new("b/x"), 4).unwrap();
            tree.sync_dir(tree.find(Path::new("b")).unwrap(), 4);
            tree.lose_power(&mut Random::new(seed));
            assert_eq!(tree.find(Path::new("a/x")), Err(Fault::NotFound));
            assert!(tree.find(Path::new("b/x")).is_ok());
        }
    }

    /// A directory that is lost takes all that was made in it along, synced or not.
    #[test]
    fn a_lost_directory_takes_its_files_along() {
        let mut lost = 0;
        for seed in 0..100 {
            let mut tree = Tree::new();
            tree.make_dir(Path::new("d"), 1).unwrap();
            tree.make_name(Path::new("d/f"), 2).unwrap();
            tree.sync_dir(tree.find(Path::new("d")).unwrap(), 2);
            tree.lose_power(&mut Random::new(seed));
            lost += u32::from(tree.find(Path::new("d/f")) == Err(Fault::NotFound));
            assert_eq!(tree.find(Path::new("d")).is_ok(), tree.find(Path::new("d/f")).is_ok());
        }
        assert!(0 < lost && lost < 100);
    }

    /// A removed file may come back with a power loss, until its directory is synced.
    #[test]
    fn a_removal_is_durable_only_once_the_directory_is_synced() {
        let came_back = |sync: bool| {
            (0..100)
                .filter(|seed| {
                    let mut tree = Tree::new();
                    tree.make_name(Path::new("f"), 1).unwrap();
                    tree.sync_dir(ROOT, 1);
                    tree.remove_file(Path::new("f"), 2).unwrap();
                    if sync {
                        tree.sync_dir(ROOT, 2);
                    }
                    tree.lose_power(&mut Random::new(*seed));
                    tree.find(Path::new("f")).is_ok()
                })
                .count()
        };
        assert_eq!(came_back(true), 0);
        assert!(0 < came_back(false));
    }
}
