import { useEffect, useRef, useState } from "preact/hooks";
import { api } from "../../api/client";
import { toastError } from "../../ui/Toast";
import { type Following, type Item, pathOf, type Project, type Undone } from "./types";

/** Texts that are asked for at once: the server fits its learner again after as many labels. */
const BATCH = 5;

export interface Queue {
  project: Project | null;
  /** The text to label; null while the next ones are chosen, and at the end. */
  item: Item | null;
  /** Whether every text is labelled. */
  done: boolean;
  error: unknown;
  label: (name: string) => void;
  skip: () => void;
  /** Takes the last action back and shows its text; false: there was none. */
  undo: () => Promise<boolean>;
  reload: () => void;
}

/**
 * The texts of a project to label, some at a time. An answer is sent while the next text is shown already; answers go out one
 * after the other, and one that fails brings its text back.
 */
export function useQueue(id: string): Queue {
  const [project, setProject] = useState<Project | null>(null);
  const [items, setItems] = useState<readonly Item[] | null>(null);
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
    setItems(null);
    void inTurn(() => api<Following>(pathOf(id, "next"), { query: { limit: BATCH }, signal })).then(
      (found) => {
        if (signal.aborted) return;
        setProject(found.project);
        setItems(found.data);
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
  }, [id]);

  const answer = (body: { label: string } | { skip: true }) => {
    const [item, ...rest] = items ?? [];
    if (item === undefined) return;
    const { signal } = left.current;
    setItems(rest);
    // An answer that was given is sent even if the page is left.
    void inTurn(() => api<Project>(pathOf(id, "labels"), { body: { index: item.index, ...body } })).then(
      (found) => {
        if (!signal.aborted) setProject(found);
      },
      (failure: unknown) => {
        if (signal.aborted) return;
        toastError(failure);
        setItems((now) => [item, ...(now ?? [])]);
      },
    );
    if (rest.length === 0) fetchNext();
  };
  const undo = async () => {
    try {
      const found = await inTurn(() => api<Undone>(pathOf(id, "undo"), { method: "POST" }));
      setProject(found.project);
      const { item } = found;
      if (item !== null) setItems((now) => [item, ...(now ?? []).filter((one) => one.index !== item.index)]);
      return item !== null;
    } catch (failure) {
      toastError(failure);
      return true;
    }
  };
  return {
    project,
    item: items?.[0] ?? null,
    done: items?.length === 0,
    error,
    label: (name) => answer({ label: name }),
    skip: () => answer({ skip: true }),
    undo,
    reload: fetchNext,
  };
}
