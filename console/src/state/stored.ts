import { effect, signal, type Signal } from "@preact/signals";

/** Makes a signal whose value outlasts the page, in localStorage. Values that `accepts` refuses give way to `initial`. */
export function stored<T>(name: string, initial: T, accepts: (value: unknown) => boolean = () => true): Signal<T> {
  const key = `deepwell.${name}`;
  let value = initial;
  try {
    const text = localStorage.getItem(key);
    if (text !== null) {
      const found: unknown = JSON.parse(text);
      if (accepts(found)) value = found as T;
    }
  } catch {
    // Storage may be closed, or hold what another version wrote: the initial value serves.
  }
  const made = signal(value);
  effect(() => {
    const text = JSON.stringify(made.value);
    try {
      localStorage.setItem(key, text);
    } catch {
      // A full or closed storage loses a preference, nothing more.
    }
  });
  return made;
}
