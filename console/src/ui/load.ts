import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "../api/errors";
import { keyRound } from "../state/key";

export interface Loaded<T> {
  data: T | undefined;
  error: unknown;
  loading: boolean;
  reload: () => void;
}

/**
 * Loads something when a component appears and whenever `inputs` change; `everyMs` loads it again while the page is visible.
 * What was loaded stays until the next comes, and an answer that comes too late is dropped. A key that is missing or may not
 * do this ends the repetition, so that a declined question for a key is not asked again and again; another key begins anew.
 */
export function useLoad<T>(load: (signal: AbortSignal) => Promise<T>, inputs: readonly unknown[], everyMs = 0): Loaded<T> {
  const [state, setState] = useState<{ data: T | undefined; error: unknown; loading: boolean }>({
    data: undefined,
    error: null,
    loading: true,
  });
  const [round, setRound] = useState(0);
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    const left = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const again = () => {
      if (everyMs > 0 && !left.signal.aborted) timer = setTimeout(run, everyMs);
    };
    const run = () => {
      if (document.hidden && everyMs > 0) {
        again();
        return;
      }
      latest.current(left.signal).then(
        (data) => {
          if (left.signal.aborted) return;
          setState({ data, error: null, loading: false });
          again();
        },
        (error: unknown) => {
          if (left.signal.aborted) return;
          setState((before) => ({ ...before, error, loading: false }));
          if (!(error instanceof ApiError && (error.status === 401 || error.status === 403))) again();
        },
      );
    };
    setState((before) => ({ ...before, loading: true }));
    run();
    return () => {
      left.abort();
      clearTimeout(timer);
    };
  }, [...inputs, round, everyMs, keyRound.value]);
  const reload = useCallback(() => setRound((value) => value + 1), []);
  return { ...state, reload };
}
