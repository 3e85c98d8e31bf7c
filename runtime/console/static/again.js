// What is asked again and again: one question at a time, so that a slow answer makes no queue of questions behind it. The time
// between two is that of a clock which nobody sets.

export function repeated(every_ms, look) {
  const leaving = new AbortController();
  let began_ms = -Infinity;
  let isAsking = false;
  let isOld = false; // Something was changed since it was asked.

  async function now() {
    if (isAsking) {
      isOld = true;
      return;
    }
    isAsking = true;
    do {
      isOld = false;
      began_ms = performance.now();
      await look(leaving.signal).catch((error) => leaving.signal.aborted || console.error(error));
    } while (isOld && !leaving.signal.aborted);
    isAsking = false;
  }

  return {
    now,
    due() {
      if (!isAsking && performance.now() - began_ms >= every_ms) now();
    },
    // The page is left: what it has asked is not waited for.
    close() {
      leaving.abort();
    },
  };
}
