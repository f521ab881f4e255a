import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { api } from "../../api/client";
import { type Collected, collect } from "../../api/collect";
import type { VectorStore } from "../../api/types";
import { count, t, texts } from "../../i18n";
import { go, hrefOf } from "../../state/route";
import { Button } from "../../ui/Button";
import { Failure } from "../../ui/Failure";
import { Icon } from "../../ui/Icon";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { type Piece, pieces, type Span, toUnits } from "./marks";
import { nameOf } from "./names";
import type { Chunk, StoreFile } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const MOST_CHUNKS = 5000;
const AROUND = 12;
const MORE = 40;
const LIVE_MS = 1000;
const HEAD_PX = 110;

interface Loaded {
  store: VectorStore;
  name: string;
  file: StoreFile;
  /** What was read from the file; null while it is not there. */
  read: { text: string; chunks: Collected<Chunk> } | null;
}

/** The text that was read from a file, with its chunks marked, as searches find them. */
export function FileView({ storeId, fileId, chunkId }: { storeId: string; fileId: string; chunkId: string | undefined }) {
  const [live, setLive] = useState(false);
  const load = async (signal: AbortSignal): Promise<Loaded> => {
    const base = `/v1/vector_stores/${encodeURIComponent(storeId)}`;
    const path = `${base}/files/${encodeURIComponent(fileId)}`;
    const [store, file, name] = await Promise.all([
      api<VectorStore>(base, { signal }),
      api<StoreFile>(path, { signal }),
      nameOf(fileId, signal),
    ]);
    setLive(file.status === "in_progress");
    if (file.status !== "completed") return { store, file, name, read: null };
    const [content, chunks] = await Promise.all([
      api<{ data: { text: string }[] }>(`${path}/content`, { signal }),
      collect<Chunk>(`${path}/chunks`, MOST_CHUNKS, { signal }),
    ]);
    return { store, file, name, read: { text: content.data.map((part) => part.text).join(""), chunks } };
  };
  const { data, error, reload } = useLoad(load, [storeId, fileId], live ? LIVE_MS : 0);
  const read = data?.read;
  return (
    <div class="page">
      <a class="knowledge-back" href={hrefOf("knowledge", storeId)}>
        <Icon name="left" size={15} />
        {say("file.back", { name: data?.store.name || storeId })}
      </a>
      <h1 class="knowledge-name">{data?.name ?? fileId}</h1>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {!data && error === null && <p class="muted">{t("shell.loading")}</p>}
      {data?.file.last_error && <Failure error={new Error(data.file.last_error.message)} />}
      {data && !read && !data.file.last_error && <p role="status">{say(`status.${data.file.status}`)}</p>}
      {read && read.chunks.data.length === 0 && <p class="muted">{say("file.none")}</p>}
      {read && read.chunks.data.length > 0 && (
        <Marked
          text={read.text}
          chunks={read.chunks}
          chunkId={chunkId}
          onChoose={(id) => go({ page: "knowledge", rest: [storeId, fileId, id], replace: true })}
        />
      )}
    </div>
  );
}

interface MarkedProps {
  text: string;
  chunks: Collected<Chunk>;
  chunkId: string | undefined;
  onChoose: (id: string) => void;
}

function Marked({ text, chunks: { data: chunks, more }, chunkId, onChoose }: MarkedProps) {
  const at = Math.max(0, chunks.findIndex((one) => one.id === chunkId));
  const spans = useMemo(() => toUnits(text, chunks), [text, chunks]);
  const [shown, setShown] = useState(() => ({ from: Math.max(0, at - AROUND), to: Math.min(chunks.length, at + AROUND + 1) }));
  const frame = useRef<HTMLDivElement>(null);
  useEffect(() => {
    setShown(({ from, to }) =>
      at >= from && at < to ? { from, to } : { from: Math.max(0, at - AROUND), to: Math.min(chunks.length, at + AROUND + 1) },
    );
  }, [at]);
  useEffect(() => {
    const mark = frame.current?.querySelector("mark.chosen");
    if (!mark || chunkId === undefined) return;
    const { top } = mark.getBoundingClientRect();
    if (top < HEAD_PX || top > innerHeight * 0.7) mark.scrollIntoView({ block: "start" });
  }, [at]);
  const chunk = chunks[at];
  const begin = shown.from === 0 ? 0 : (spans[shown.from]?.start ?? 0);
  const end = shown.to === chunks.length && !more ? text.length : (spans[shown.to - 1]?.end ?? text.length);
  const parts = pieces(text, spans.slice(shown.from, shown.to), begin, end);
  const choose = (index: number) => {
    const next = chunks[index];
    if (next) onChoose(next.id);
  };
  return (
    <div class="knowledge-marked">
      <div class="row knowledge-bar">
        <Button small icon="left" label={say("file.previous")} disabled={at === 0} onClick={() => choose(at - 1)} />
        <Button small icon="right" label={say("file.next")} disabled={at === chunks.length - 1} onClick={() => choose(at + 1)} />
        <span class="grow" role="status">
          <b>{say("file.chunk", { number: count(at + 1), total: count(chunks.length) })}</b>{" "}
          {chunk && <span class="muted small">{placeOf(chunk)}</span>}
        </span>
      </div>
      {more && <p class="muted small">{say("file.most", { count: count(chunks.length) })}</p>}
      <div ref={frame} class="knowledge-text" role="region" aria-label={say("file.text")} tabIndex={0} dir="auto">
        {shown.from > 0 && (
          <div class="row center">
            <Button small onClick={() => setShown({ ...shown, from: Math.max(0, shown.from - MORE) })}>
              {say("file.earlier")}
            </Button>
          </div>
        )}
        {parts.map((part) => (
          <Part key={part.start} part={part} spans={spans} chosen={at - shown.from} first={shown.from} onChoose={choose} />
        ))}
        {shown.to < chunks.length && (
          <div class="row center">
            <Button small onClick={() => setShown({ ...shown, to: Math.min(chunks.length, shown.to + MORE) })}>
              {say("file.later")}
            </Button>
          </div>
        )}
      </div>
      {overlaps(spans) && <p class="muted small">{say("file.overlap")}</p>}
    </div>
  );
}

interface PartProps {
  part: Piece;
  spans: readonly Span[];
  chosen: number;
  first: number;
  onChoose: (index: number) => void;
}

function Part({ part, spans, chosen, first, onChoose }: PartProps) {
  const cover = part.covers[0];
  if (cover === undefined) return <>{part.text}</>;
  const classes = [
    part.covers.includes(chosen) ? "chosen" : (cover + first) % 2 === 0 ? "even" : "odd",
    part.covers.length > 1 && "shared",
  ];
  const begins = part.covers.find((one) => spans[first + one]?.start === part.start);
  // The buttons above do the same for the keyboard.
  return (
    <mark
      class={classes.filter(Boolean).join(" ")}
      data-number={begins === undefined ? undefined : count(first + begins + 1)}
      onClick={() => onChoose(first + (part.covers.at(-1) ?? 0))}
    >
      {part.text}
    </mark>
  );
}

function overlaps(spans: readonly Span[]): boolean {
  return spans.some((span, at) => at > 0 && span.start < (spans[at - 1]?.end ?? 0));
}

/** Where a chunk stands: its offsets, its page, and the headings above it. */
function placeOf(chunk: Chunk): string {
  const parts = [say("file.offsets", { start: count(chunk.start), end: count(chunk.end) })];
  if (chunk.page !== null) parts.push(say("file.page", { page: count(chunk.page) }));
  if (chunk.headings.length > 0) parts.push(chunk.headings.join(" › "));
  return parts.join(" · ");
}
