import type { ComponentChildren } from "preact";
import { bytes, count, duration, percent } from "../../i18n";
import { Chart } from "../../ui/Chart";
import { Failure } from "../../ui/Failure";
import { Progress } from "../../ui/Progress";
import { type Column, Table } from "../../ui/Table";
import type { Loaded } from "../../ui/load";
import { Experts } from "./Experts";
import type { Sample } from "./live";
import { say } from "./say";
import type { Lookups, ModelStats, Percentiles, Stats } from "./types";

/** The figures of the whole server, live. */
export function Health({ stats, samples }: { stats: Loaded<Stats>; samples: readonly Sample[] }) {
  const { data, error, reload } = stats;
  return (
    <div class="usage-health">
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && (
        <>
          <Figures stats={data} />
          {data.models.length === 0 && <p class="muted">{say("models.none")}</p>}
          {data.models.length > 0 && (
            <section>
              <h2>{say("models")}</h2>
              <Table label={say("models")} columns={columns()} rows={data.models} id={(model) => model.id} />
            </section>
          )}
          {samples.length > 1 && <Live samples={samples} />}
          <div class="usage-pair">
            <section>
              <h2>{say("latency")}</h2>
              <Latencies latency={data.latency_ms} />
            </section>
            <section>
              <h2>{say("caches")}</h2>
              <Caches stats={data} />
            </section>
          </div>
          {data.models.map(
            (model) => model.experts !== null && <Experts key={model.id} name={model.id} loads={model.experts} />,
          )}
        </>
      )}
    </div>
  );
}

function Figures({ stats }: { stats: Stats }) {
  const { total, errors, open } = stats.requests;
  return (
    <div class="cards usage-cards">
      <Figure name={say("requests")} value={count(total)} more={say("requests.open", { count: count(open) })} />
      <Figure
        name={say("errors")}
        value={count(errors)}
        more={total > 0 ? say("errors.part", { part: smallPercent(errors / total) }) : ""}
        bad={errors > 0}
      />
      <Figure name={say("memory")} value={bytes(stats.memory_bytes)} more={say("memory.all")} />
      <Figure name={say("uptime")} value={duration(stats.uptime_s)} more={say("version", { version: stats.version })} />
    </div>
  );
}

/** A percentage that is not shown as none where there is some. */
function smallPercent(part: number): string {
  return part > 0 && part < 0.001 ? `< ${percent(0.001)}` : percent(part);
}

/** One number with its name, and a line of what belongs to it. */
export function Figure({ name, value, more, bad }: { name: string; value: string; more?: ComponentChildren; bad?: boolean }) {
  return (
    <div class="card usage-figure">
      <div class="muted small">{name}</div>
      <div class={bad ? "figure usage-bad" : "figure"}>{value}</div>
      <div class="muted small">{more}</div>
    </div>
  );
}

function Live({ samples }: { samples: readonly Sample[] }) {
  const x = samples.map((one) => one.at);
  const names = Object.keys(samples.at(-1)?.rates ?? {});
  return (
    <div class="usage-pair">
      <Chart
        label={say("rate")}
        time
        x={x}
        series={names.map((name) => ({ name, values: samples.map((one) => one.rates[name] ?? null) }))}
        format={(value) => count(value, 1)}
      />
      <Chart
        label={say("queue")}
        time
        x={x}
        series={[
          { name: say("running"), values: samples.map((one) => one.running) },
          { name: say("waiting"), values: samples.map((one) => one.waiting) },
        ]}
        format={(value) => count(value, 1)}
      />
    </div>
  );
}

function columns(): Column<ModelStats>[] {
  return [
    { name: "model", title: say("column.model"), cell: (model) => <span class="usage-name">{model.id}</span> },
    {
      name: "rate",
      title: say("column.rate"),
      cell: (model) => (model.tokens_per_s === null ? "" : count(model.tokens_per_s, 1)),
      number: true,
    },
    { name: "running", title: say("running"), cell: (model) => count(model.running), number: true },
    { name: "waiting", title: say("waiting"), cell: (model) => count(model.waiting), number: true },
    {
      name: "kv",
      title: say("column.kv"),
      cell: (model) =>
        model.kv_total_blocks > 0 && (
          <span class="usage-kv">
            <Progress
              label={say("kv.of", { name: model.id })}
              done={model.kv_used_blocks}
              total={model.kv_total_blocks}
              text={percent(model.kv_used_blocks / model.kv_total_blocks)}
            />
          </span>
        ),
      wide: true,
    },
    {
      name: "prefix",
      title: say("column.prefix"),
      cell: (model) => rate(model.prefix_hit_tokens, model.prefix_query_tokens),
      number: true,
      wide: true,
    },
  ];
}

const TIMES = ["first_token", "inter_token", "queue"] as const;

function Latencies({ latency }: { latency: Stats["latency_ms"] }) {
  if (TIMES.every((name) => latency[name].p50 === null)) return <p class="muted">{say("latency.none")}</p>;
  const cell = (name: (typeof TIMES)[number], at: keyof Percentiles) => milliseconds(latency[name][at]);
  return (
    <Table
      label={say("latency")}
      rows={TIMES}
      id={(name) => name}
      columns={[
        { name: "what", title: say("column.what"), cell: (name) => say(`latency.${name}`) },
        { name: "p50", title: "p50", cell: (name) => cell(name, "p50"), number: true },
        { name: "p95", title: "p95", cell: (name) => cell(name, "p95"), number: true },
        { name: "p99", title: "p99", cell: (name) => cell(name, "p99"), number: true },
      ]}
    />
  );
}

/** A time in milliseconds with as many digits as it has worth: 0.42 ms, 12 ms, 1.3 s. */
export function milliseconds(value: number | null): string {
  if (value === null) return "–";
  if (value >= 1000) return `${count(value / 1000, value >= 10_000 ? 0 : 1)} s`;
  return `${count(value, value >= 10 ? 0 : value >= 1 ? 1 : 2)} ms`;
}

function Caches({ stats }: { stats: Stats }) {
  const asked = stats.models.reduce((sum, model) => sum + model.prefix_query_tokens, 0);
  const had = stats.models.reduce((sum, model) => sum + model.prefix_hit_tokens, 0);
  const rows = [
    { name: say("cache.prefix"), hits: had, misses: asked - had, unit: say("unit.tokens") },
    ...(["response", "semantic"] as const).map((name) => ({
      name: say(`cache.${name}`),
      ...(stats.caches[name] ?? { hits: null, misses: null }),
      unit: say("unit.requests"),
    })),
  ];
  return (
    <Table
      label={say("caches")}
      rows={rows}
      id={(row) => row.name}
      columns={[
        { name: "cache", title: say("column.cache"), cell: (row) => row.name },
        {
          name: "hits",
          title: say("column.hits"),
          cell: (row) =>
            row.hits === null ? <span class="muted">{say("cache.off")}</span> : `${count(row.hits)} ${row.unit}`,
          number: true,
        },
        {
          name: "rate",
          title: say("column.hit_rate"),
          cell: (row) => (row.hits === null ? "" : hitRate({ hits: row.hits, misses: row.misses ?? 0 })),
          number: true,
        },
      ]}
    />
  );
}

function hitRate({ hits, misses }: Lookups): string {
  return rate(hits, hits + misses);
}

function rate(part: number, whole: number): string {
  return whole > 0 ? percent(part / whole) : "–";
}
