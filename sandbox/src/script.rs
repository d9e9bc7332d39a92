//! The faults that are still to come: per user, for anybody, and the standing one.
//!
//! Must never lose one silently: what was scripted is dealt, is listed as left over, or is dropped by name.

use std::collections::{HashMap, VecDeque};

use crate::fault::Fault;

/// Faults that may be waiting. More is a test's endless loop.
pub const MAX_SCRIPT: usize = 10_000;

#[derive(Default)]
pub(crate) struct Script {
    anybody: VecDeque<Fault>,
    users: HashMap<String, VecDeque<Fault>>,
    pub(crate) always: Option<Fault>,
}

impl Script {
    /// Adds faults at the end; all of them, or none where that would be too many.
    pub(crate) fn add(&mut self, faults: Vec<(Option<String>, Fault)>) -> Result<(), String> {
        if self.left() + faults.len() > MAX_SCRIPT {
            return Err(format!("more than {MAX_SCRIPT} faults would be waiting"));
        }
        for (number, fault) in faults {
            match number {
                Some(number) => self.users.entry(number).or_default().push_back(fault),
                None => self.anybody.push_back(fault),
            }
        }
        Ok(())
    }

    /// What the next sign-in of `number` gets: the user's own script, then everybody's, then the standing fault.
    pub(crate) fn next(&mut self, number: Option<&str>) -> Option<Fault> {
        if let Some(number) = number
            && let Some(queue) = self.users.get_mut(number)
        {
            let fault = queue.pop_front();
            if queue.is_empty() {
                self.users.remove(number);
            }
            return fault;
        }
        self.anybody.pop_front().or_else(|| self.always.clone())
    }

    /// How many were not dealt yet; the standing fault is none of them.
    pub(crate) fn left(&self) -> usize {
        self.anybody.len() + self.users.values().map(VecDeque::len).sum::<usize>()
    }

    /// Drops all that is left, the standing fault too; how many were scripted.
    pub(crate) fn clear(&mut self) -> usize {
        let left = self.left();
        *self = Self::default();
        left
    }

    /// One line for each fault that was not dealt.
    pub(crate) fn list(&self) -> Vec<String> {
        let users =
            self.users.iter().flat_map(|(number, queue)| queue.iter().map(move |fault| format!("for {number}: {fault:?}")));
        self.anybody.iter().map(|fault| format!("for anybody: {fault:?}")).chain(users).collect()
    }
}
