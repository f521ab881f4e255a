import { useEffect, useRef, useState } from "preact/hooks";
import { api } from "../../api/client";
import { toastError } from "../../ui/Toast";
import { type Choice, type Following, type Pair, pathOf, type Progress, type Undone } from "./types";

const BATCH = 5; // pairs that are asked for at once

export interface Queue {
  progress: Progress | null;
  /** The pair to rate; null while the next ones are fetched, and at the end. */
  pair: Pair | null;
  done: boolean;
  error: unknown;
  vote: (choice: Choice) => void;
  /** Takes the last vote back and shows its pair; false: there was none. */
  undo: () => Promise<boolean>;
  reload: () => void;
}

/**
 * The pairs of a study to rate, some at a time. A vote is sent while the next pair is shown already; votes go out one after the
 * other, and one that fails brings its pair back.
 */
export function useQueue(id: string, rater: string): Queue {
  const [progress, setProgress] = useState<Progress | null>(null);
  const [pairs, setPairs] = useState<readonly Pair[] | null>(null);
  const [error, setError] = useState<unknown>(null);
  const sending = useRef<Promise<unknown>>(Promise.resolve());
  const left = useRef(new AbortController());

  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const turn = sending.current.then(work);
    sending.current = turn.catch(() => undefined);
    return turn;
  };
  const fetchNext = () => {
    const { signal } = left.current;
    setPairs(null);
    const query = { rater, limit: BATCH };
    void inTurn(() => api<Following>(pathOf(id, "next"), { query, signal })).then(
      (found) => {
        if (signal.aborted) return;
        setProgress(found.progress);
        setPairs(found.data);
        setError(null);
      },
      (failure: unknown) => {
        if (!signal.aborted) setError(failure);
      },
    );
  };
  useEffect(() => {
    left.current = new AbortController();
    fetchNext();
    return () => left.current.abort();
  }, [id, rater]);

  const vote = (choice: Choice) => {
    const [pair, ...rest] = pairs ?? [];
    if (pair === undefined) return;
    const { signal } = left.current;
    setPairs(rest);
    // A vote that was given is sent even if the page is left.
    void inTurn(() => api<Progress>(pathOf(id, "votes"), { body: { rater, index: pair.index, choice } })).then(
      (found) => {
        if (!signal.aborted) setProgress(found);
      },
      (failure: unknown) => {
        if (signal.aborted) return;
        toastError(failure);
        setPairs((now) => [pair, ...(now ?? []).filter((one) => one.index !== pair.index)]);
      },
    );
    if (rest.length === 0) fetchNext();
  };
  const undo = async () => {
    try {
      const found = await inTurn(() => api<Undone>(pathOf(id, "undo"), { body: { rater } }));
      setProgress(found.progress);
      const { pair } = found;
      if (pair !== null) setPairs((now) => [pair, ...(now ?? []).filter((one) => one.index !== pair.index)]);
      return pair !== null;
    } catch (failure) {
      toastError(failure);
      return true;
    }
  };
  return {
    progress,
    pair: pairs?.[0] ?? null,
    done: pairs?.length === 0,
    error,
    vote,
    undo,
    reload: fetchNext,
  };
}
