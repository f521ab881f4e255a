import type { Model, VectorStore } from "../../../api/types";
import { Button } from "../../../ui/Button";
import * as session from "../model/session";
import { say } from "../say";

interface HeadProps {
  models: readonly Model[];
  stores: readonly VectorStore[];
  onList: () => void;
  onSettings: () => void;
}

/** The line above the conversation: its title, the model, the knowledge base, and the way to all other settings. */
export function Head({ models, stores, onList, onSettings }: HeadProps) {
  const settings = session.settings();
  const title = session.current.value?.title ?? say("list.new");
  const gone = settings.knowledge !== "" && !stores.some((one) => one.id === settings.knowledge);
  return (
    <header class="chat-head">
      <Button class="chat-list-open" kind="quiet" icon="list" label={say("list.title")} onClick={onList} />
      <h1 class="clip" title={title}>
        {title}
      </h1>
      <label class="chat-choice">
        <span class="unseen">{say("head.model")}</span>
        <select
          class="select"
          value={settings.model}
          disabled={models.length === 0}
          onChange={(event) => session.changeSettings({ model: event.currentTarget.value })}
        >
          {models.length === 0 && <option value="">{say("head.model.none")}</option>}
          {models.map((one) => (
            <option key={one.id} value={one.id} selected={one.id === settings.model}>
              {one.id}
            </option>
          ))}
        </select>
      </label>
      {(stores.length > 0 || gone) && (
        <label class="chat-choice">
          <span class="unseen">{say("head.knowledge")}</span>
          <select
            class="select"
            value={settings.knowledge}
            onChange={(event) => session.changeSettings({ knowledge: event.currentTarget.value })}
          >
            <option value="">{say("head.knowledge.none")}</option>
            {gone && <option value={settings.knowledge}>{settings.knowledge}</option>}
            {stores.map((one) => (
              <option key={one.id} value={one.id} selected={one.id === settings.knowledge}>
                {one.name ?? one.id}
              </option>
            ))}
          </select>
        </label>
      )}
      <Button kind="quiet" icon="sliders" label={say("head.settings")} onClick={onSettings} />
    </header>
  );
}
