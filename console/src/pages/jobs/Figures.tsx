import type { ComponentChildren } from "preact";
import type { Job } from "../../api/types";
import { bytes, count, language, percent, texts, time } from "../../i18n";
import { Command } from "../../ui/Empty";
import { Table } from "../../ui/Table";
import { en } from "./en";
import { stepOf } from "./Status";
import { certain, type Change, type Compressed, type Optimised, regained, type Told, type Tried } from "./results";
import { zh } from "./zh";

const say = texts(en, zh);
type Row = { name: string; before: ComponentChildren; after: ComponentChildren };

/** The figures of a finished job that its kind has a view for; null: it has none. */
export function Figures({ job }: { job: Job }) {
  if (job.result === null) return null;
  if (job.kind === "compression") return <CompressedView made={job.result as unknown as Compressed} />;
  if (job.kind === "prompts.optimise") return <OptimisedView made={job.result as unknown as Optimised} />;
  return null;
}

/** Whether a job's result is shown by `Figures`. */
export function hasFigures(job: Job): boolean {
  return job.result !== null && (job.kind === "compression" || job.kind === "prompts.optimise");
}

function CompressedView({ made }: { made: Compressed }) {
  const record = made.record;
  const rows: Row[] = [{ name: say("figures.size"), before: bytes(made.base_bytes), after: bytes(made.bytes) }];
  if (record.parameters && record.base_parameters)
    rows.push({ name: say("figures.weights"), before: count(record.base_parameters), after: count(record.parameters) });
  if (record.base_cached && record.shape?.cached)
    rows.push({ name: say("figures.cached"), before: count(record.base_cached), after: count(record.shape.cached) });
  if (typeof record.loss_before === "number" && typeof record.loss === "number")
    rows.push({ name: say("figures.loss"), before: count(record.loss_before, 3), after: count(record.loss, 3) });
  if (made.held_out)
    rows.push({ name: say("figures.held"), before: count(made.held_out.first, 3), after: count(made.held_out.second, 3) });
  const cut = record.recovery?.loss_before;
  const back =
    typeof cut === "number" && typeof record.loss_before === "number" && typeof record.loss === "number"
      ? regained(record.loss_before, cut, record.loss)
      : null;
  return (
    <section class="stack">
      <h3>{say("figures.model", { name: made.compressed_model })}</h3>
      <Beside rows={rows} first={record.base ?? say("figures.donor")} second={made.compressed_model} />
      {made.held_out && <Interval change={made.held_out} shown={(value) => count(value, 3)} unit={say("figures.pieces")} />}
      {back !== null && <p>{say("figures.recovered", { cut: count(cut ?? 0, 3), share: percent(back) })}</p>}
      {typeof record.agreement === "number" && (
        <p>{say("figures.agreement", { share: percent(record.agreement), divergence: count(record.divergence ?? 0, 3) })}</p>
      )}
      {record.method === "pruned" && <p class="muted">{say("figures.pruned")}</p>}
      {record.method === "converted" && <p class="muted">{say("figures.converted")}</p>}
      {record.method === "quantised" && made.bytes > made.base_bytes && <p class="muted">{say("figures.larger")}</p>}
      <p class="muted">{say("figures.serve")}</p>
      <Command text={`deepwell serve ${made.compressed_model}`} />
    </section>
  );
}

function OptimisedView({ made }: { made: Optimised }) {
  const held = made.held_out;
  const points = (value: number) => say("figures.points", { value: `${value > 0 ? "+" : ""}${count(100 * value, 1)}` });
  const verdict =
    made.version === null
      ? say("figures.nothing")
      : say(made.current ? "figures.current" : made.better ? "figures.kept" : "figures.unsure", {
          id: made.prompt,
          version: made.version,
        });
  return (
    <section class="stack">
      <h3>{verdict}</h3>
      {held && (
        <>
          <Beside
            rows={[
              { name: say("figures.heldScore"), before: percent(held.first), after: percent(held.second) },
              { name: say("figures.tokens"), before: count(made.start.tokens), after: count(made.winner.tokens) },
            ]}
            first={say("figures.start")}
            second={candidateOf(made.winner.name)}
          />
          <Interval change={held} shown={points} unit={say("figures.rows")} />
        </>
      )}
      {made.version === null ? (
        <p>{say("figures.nothing.next")}</p>
      ) : (
        <>
          {!made.current && (
            <>
              <p class="muted">{say("figures.use")}</p>
              <Command text={`deepwell prompts use ${made.prompt} ${made.version}`} />
            </>
          )}
          <h3>{say("figures.text")}</h3>
          <pre class="jobs-result" tabIndex={0}>
            {[made.winner.text.instructions, ...made.winner.text.messages.map((one) => `${one.role}: ${one.content}`)].join("\n\n")}
          </pre>
        </>
      )}
      <h3>{say("figures.tried", { calls: count(made.search.calls) })}</h3>
      <Table
        label={say("figures.candidates")}
        columns={[
          { name: "name", title: say("figures.candidate"), cell: (one: Tried) => candidateOf(one.name) },
          { name: "score", title: say("figures.score"), cell: (one: Tried) => percent(one.score), number: true },
          { name: "rows", title: say("figures.rowsAsked"), cell: (one: Tried) => count(one.rows), number: true },
          { name: "tokens", title: say("figures.tokens"), cell: (one: Tried) => count(one.tokens), number: true, wide: true },
        ]}
        rows={made.candidates}
        id={(one) => one.key}
      />
      <p class="muted">{say("figures.tried.hint")}</p>
    </section>
  );
}

/** A candidate in words: its instructions, and the examples beside them; its own name where the page does not know it. */
function candidateOf(name: string): string {
  const [, origin = name, examples, shown] = /^(.*?)(?: \+ (\d+) examples \((\w+)\))?$/.exec(name) ?? [];
  const [, kind, rest = ""] = /^(start$|rewrite |own |edit: )(.*)$/.exec(origin) ?? [];
  const known = { start: "start", "rewrite ": "rewrite", "own ": "own", "edit: ": "edit" } as const;
  const first = kind === undefined ? origin : say(`candidate.${known[kind as keyof typeof known]}`, { rest });
  if (examples === undefined) return first;
  const chosen = shown === "right" || shown === "wrong" || shown === "mixed" || shown === "own" ? say(`examples.${shown}`) : shown;
  return say("candidate.examples", { first, count: examples, kind: chosen ?? "" });
}

function Beside({ rows, first, second }: { rows: Row[]; first: string; second: string }) {
  return (
    <Table
      label={say("figures.beside")}
      columns={[
        { name: "name", title: say("figures.figure"), cell: (one: Row) => one.name },
        { name: "before", title: first, cell: (one: Row) => one.before, number: true },
        { name: "after", title: second, cell: (one: Row) => one.after, number: true },
      ]}
      rows={rows}
      id={(one) => one.name}
    />
  );
}

function Interval({ change, shown, unit }: { change: Change; shown: (value: number) => string; unit: string }) {
  const values = { value: shown(change.value), low: shown(change.low), high: shown(change.high), count: count(change.paired), unit };
  return (
    <p>
      {say("figures.interval", values)}
      {change.paired < 10 ? say("figures.few") : certain(change) ? "" : say("figures.noise")}
    </p>
  );
}

/** An event in the language of the page, or as the server said it. */
function toldAs(event: Told): string {
  const kind = event.kind;
  if (kind === "split") {
    const [train = "", development = "", held = ""] = event.message.match(/\d+/g) ?? [];
    return say("event.split", { train, development, held });
  }
  if (kind === "succeeded" || kind === "cancelled" || kind === "restarted" || kind === "made") return say(`event.${kind}`);
  return kind === undefined ? messageOf(event) : stepOf(kind);
}

function messageOf(event: Told): string {
  return language.value === "zh" ? (event.message_zh ?? event.message) : event.message;
}

/** Why a job has failed, in the language of the page where the job tells it so. */
export function failureOf(job: Job): string {
  const last = toldOf(job).at(-1);
  return (language.value === "zh" && last?.level === "error" ? last.message_zh : undefined) ?? job.error ?? "";
}

function toldOf(job: Job): Told[] {
  return Array.isArray(job.progress?.events) ? (job.progress.events as Told[]) : [];
}

/** What a job has told so far, the newest first. */
export function Events({ job }: { job: Job }) {
  const events = toldOf(job);
  if (events.length === 0) return null;
  return (
    <section>
      <h3>{say("events")}</h3>
      <ol class="jobs-events">
        {[...events].reverse().map((one) => (
          <li key={one.number} class={one.level}>
            <span class="muted">{time(one.created_at, true)}</span> {toldAs(one)}
          </li>
        ))}
      </ol>
    </section>
  );
}
