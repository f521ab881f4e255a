import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { collect } from "../../api/collect";
import type { VectorStore } from "../../api/types";
import { count, duration, texts } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Failure } from "../../ui/Failure";
import { SelectField, TextField } from "../../ui/Field";
import { toastError } from "../../ui/Toast";
import { en } from "./en";
import { chunkOf } from "./found";
import type { ArmScore, Chunk, SearchResult } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const COUNTS = ["5", "10", "20", "50"] as const;
const MOST_CHUNKS = 5000;

interface Found {
  query: string;
  results: SearchResult[];
  seconds: number;
}

/** What was searched for last in each knowledge base, so that it is there again after a look into a file. */
const last = new Map<string, Found>();

/** A search that tells, for every passage, its place in each ranking. */
export function Search({ store }: { store: VectorStore }) {
  const [query, setQuery] = useState(last.get(store.id)?.query ?? "");
  const [most, setMost] = useState<(typeof COUNTS)[number]>("10");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [found, setFound] = useState<Found | undefined>(last.get(store.id));
  const search = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    const began = performance.now();
    try {
      const body = { query: query.trim(), max_num_results: Number(most), explain: true };
      const page = await api<{ data: SearchResult[] }>(`/v1/vector_stores/${encodeURIComponent(store.id)}/search`, { body });
      const told = { query: body.query, results: page.data, seconds: (performance.now() - began) / 1000 };
      last.set(store.id, told);
      setFound(told);
    } catch (failure) {
      setError(failure);
    }
    setBusy(false);
  };
  const nothing = store.file_counts.completed === 0;
  return (
    <>
      <form class="knowledge-search" role="search" onSubmit={(event) => void search(event)}>
        <div class="grow">
          <TextField label={say("search.label")} type="search" placeholder={say("search.hint")} value={query} onInput={setQuery} />
        </div>
        <SelectField
          label={say("search.count")}
          value={most}
          choices={COUNTS.map((one) => ({ value: one, label: one }))}
          onChange={setMost}
        />
        <div class="field">
          <Button kind="primary" icon="search" submit busy={busy} disabled={query.trim() === "" || nothing}>
            {say("search.go")}
          </Button>
        </div>
      </form>
      {nothing && <p class="muted">{say("search.files")}</p>}
      {!nothing && !found && error === null && <p class="muted">{say("search.first")}</p>}
      {error !== null && <Failure error={error} />}
      <div aria-live="polite">
        {found && error === null && (
          <p class="muted small">
            {found.results.length === 0
              ? say("search.none")
              : say("search.found", { count: count(found.results.length), took: duration(found.seconds) })}
          </p>
        )}
      </div>
      <ol class="knowledge-results">
        {found?.results.map((result, place) => (
          <li key={`${result.file_id} ${place}`} class="card">
            <Result result={result} place={place + 1} storeId={store.id} />
          </li>
        ))}
      </ol>
    </>
  );
}

function Result({ result, place, storeId }: { result: SearchResult; place: number; storeId: string }) {
  const [opening, setOpening] = useState(false);
  const text = result.content.map((part) => part.text).join("\n");
  const open = async () => {
    setOpening(true);
    try {
      const path = `/v1/vector_stores/${encodeURIComponent(storeId)}/files/${encodeURIComponent(result.file_id)}/chunks`;
      const chunk = chunkOf(text, (await collect<Chunk>(path, MOST_CHUNKS)).data);
      go({ page: "knowledge", rest: [storeId, result.file_id, ...(chunk ? [chunk.id] : [])] });
    } catch (failure) {
      toastError(failure);
      setOpening(false);
    }
  };
  return (
    <>
      <div class="row apart">
        <button type="button" class="cell-open" disabled={opening} title={say("search.open", { name: result.filename })} onClick={() => void open()}>
          {place}. {result.filename}
        </button>
        <span class="badge accent">{say("search.score", { score: count(result.score, 3) })}</span>
      </div>
      <p class="knowledge-passage" dir="auto">
        {text}
      </p>
      {result.scores && <Arms scores={result.scores} />}
    </>
  );
}

function Arms({ scores }: { scores: NonNullable<SearchResult["scores"]> }) {
  const ranked = (arm: ArmScore | null) =>
    arm === null ? (
      <span class="muted">{say("arm.none")}</span>
    ) : (
      <>
        <b>{say("arm.rank", { rank: count(arm.rank) })}</b> {count(arm.score, 3)}
      </>
    );
  const off = <span class="muted">{say("arm.off")}</span>;
  const arms: [string, preact.ComponentChildren][] = [
    [say("arm.lexical"), ranked(scores.lexical)],
    [say("arm.vector"), ranked(scores.vector)],
  ];
  if (scores.translated) arms.push([say("arm.translated"), ranked(scores.translated)]);
  arms.push([say("arm.fused"), count(scores.fused, 4)], [say("arm.rerank"), scores.rerank === null ? off : count(scores.rerank, 3)]);
  return (
    <dl class="knowledge-arms">
      {arms.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
