import { api } from "../../api/client";
import { count, texts } from "../../i18n";
import { CopyButton } from "../../ui/Button";
import { Command, Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import { Action, layerOf } from "./Action";
import { en } from "./en";
import type { Guard, GuardRule } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const LAYERS = ["input", "context", "output"] as const;

/** The policy in force: what is looked for, where, and what happens to it. */
export function Policy() {
  const { data: guard, error, reload } = useLoad((signal) => api<Guard>("/v1/guard", { signal }), []);
  if (error !== null) return <Failure error={error} onRetry={reload} />;
  if (!guard) return null;
  if (!guard.enabled) {
    return (
      <Empty icon="safety" title={say("off.title")} text={say("off.text")} commands={["deepwell up --policy standard", "deepwell serve --guard standard"]} />
    );
  }
  const { enabled: labelled, producer } = guard.labels;
  return (
    <div class="stack">
      {guard.missing.length > 0 && (
        <div class="failure" role="alert">
          <div>
            <p>
              <b>{say("missing.title")}</b>
            </p>
            <p>{say("missing.text")}</p>
            {guard.missing.map((name) => (
              <Missing key={name} name={name.replace(/^terms:/, "")} />
            ))}
          </div>
        </div>
      )}
      <dl class="safety-facts card">
        <div>
          <dt>{say("policy")}</dt>
          <dd>
            <b>{guard.name}</b> <span class="muted small">{say("policy.format", { version: guard.version ?? "" })}</span>
          </dd>
        </div>
        <div>
          <dt>{say("on_failure")}</dt>
          <dd>{guard.on_failure && <Action name={guard.on_failure} />}</dd>
        </div>
        <div>
          <dt>{say("labels")}</dt>
          <dd>{!labelled ? say("labels.off") : producer ? say("labels.producer", { producer }) : say("labels.on")}</dd>
        </div>
        <div class="safety-hash">
          <dt>{say("hash")}</dt>
          <dd class="row">
            <code>{guard.hash}</code>
            {guard.hash && <CopyButton text={guard.hash} />}
          </dd>
        </div>
      </dl>
      <div class="safety-layers">
        {LAYERS.map((layer) => (
          <section key={layer} class="card">
            <h2>{layerOf(layer)}</h2>
            <Table
              label={layerOf(layer)}
              columns={columns()}
              rows={guard[layer].map((rule, place) => ({ ...rule, place }))}
              id={(rule) => String(rule.place)}
              empty={<p class="muted">{say("layer.none")}</p>}
            />
          </section>
        ))}
      </div>
    </div>
  );
}

function Missing({ name }: { name: string }) {
  return /^[\w.-]+$/.test(name) ? <Command text={`deepwell guard terms pull ${name}`} /> : <p>{name}</p>;
}

function columns(): Column<GuardRule & { place: number }>[] {
  return [
    { name: "detector", title: say("column.detector"), cell: (rule) => rule.detector === "*" ? say("rule.others") : <code class="safety-word">{rule.detector}</code> },
    {
      name: "action",
      title: say("column.action"),
      cell: (rule) => (
        <span class="safety-action">
          <Action name={rule.action} />{" "}
          {rule.min_score > 0 && <span class="muted small">{say("rule.from", { score: count(rule.min_score, 2) })}</span>}
        </span>
      ),
    },
  ];
}
