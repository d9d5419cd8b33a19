//! What eviction asks of the agent: which pods there are, and what is to become of them.
//!
//! The answers come from the map of pods; what is to happen to a pod is a wish to its task.

use super::pods::Pods;
use crate::eviction::Ask;

impl Pods {
    /// Answers one question. Who asked may have gone meanwhile.
    pub(super) fn take_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Pods(answer) => {
                let wishes = self.handles.values().map(|handle| handle.wishes.borrow());
                let living = wishes.filter(|wish| !wish.pod.is_terminal() && !wish.removed && wish.verdict.is_none());
                let pods = living.map(|wish| wish.pod.clone()).collect();
                let _ = answer.send(self.known().map(|_| pods));
            }
            Ask::Spare(answer) => {
                let ended = self.handles.iter().filter(|(_, handle)| handle.wishes.borrow().pod.is_terminal());
                let uids = ended.map(|(uid, handle)| {
                    handle.wishes.send_modify(|wish| wish.spare = true);
                    uid.clone()
                });
                let _ = answer.send(uids.collect());
            }
            Ask::End(uid, verdict, answer) => {
                let handle = self.handles.get(&uid);
                if let Some(handle) = handle {
                    handle.wishes.send_modify(|wish| wish.verdict = Some(verdict));
                }
                let _ = answer.send(handle.is_some());
            }
        }
    }
}
