import { useEffect, useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Model, Page as ListPage, VectorStore } from "../../api/types";
import { language, t } from "../../i18n";
import { go, route } from "../../state/route";
import { Dialog } from "../../ui/Dialog";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { useLoad } from "../../ui/load";
import type { PageProps } from "..";
import { hearsEnglishAlone, knows, languageOf, type Spoken } from "./model/languages";
import * as session from "./model/session";
import { Composer } from "./parts/Composer";
import { Conversations } from "./parts/Conversations";
import { Head } from "./parts/Head";
import { useHush } from "./parts/Listen";
import { SettingsDrawer } from "./parts/SettingsDrawer";
import { Thread } from "./parts/Thread";
import { say } from "./say";
import "./chat.css";
import "./message.css";

const EXAMPLES = ["empty.1", "empty.2", "empty.3"] as const;

export default function Chat({ rest }: PageProps) {
  const wanted = rest[0] ?? null;
  const [listed, setListed] = useState(false);
  const [drawer, setDrawer] = useState<"list" | "settings" | null>(null);
  const models = useLoad((signal) => api<ListPage<Model>>("/v1/models", { signal }), []);
  const stores = useLoad((signal) => knowledgeBases(signal), []);
  const catalog = useLoad((signal) => spokenLanguages(signal), []);

  useHush(session.current.value?.id);
  useEffect(() => {
    void session.loadConversations().then(() => setListed(true));
  }, []);
  useEffect(() => {
    if (!listed) return;
    // A conversation may have begun since this was drawn: the address of now counts.
    void session.open(route.peek().rest[0] ?? null).then((found) => {
      if (!found) go({ page: "chat", replace: true });
    });
  }, [wanted, listed]);

  const listedModels = models.data?.data ?? [];
  const generating = listedModels.filter((one) => defaultsOf(one, listedModels) !== undefined);
  const settings = session.settings();
  const shown = session.path.value.map((id) => session.messageOf(id)?.value);
  const asked = shown.findLast((one) => one?.role === "user")?.content ?? "";
  const wantedLanguage = languageOf(language.value, asked);
  const able = generating.find((one) => knows(one, wantedLanguage, catalog.data ?? []));
  const model = generating.find((one) => one.id === settings.model) ?? able ?? generating[0];
  const known = catalog.data !== undefined || catalog.error !== null;
  useEffect(() => {
    if (known && model && model.id !== settings.model) session.changeSettings({ model: model.id });
  }, [known, model?.id, settings.model]);
  const foreign = known && wantedLanguage === "zh" && model !== undefined && !knows(model, "zh", catalog.data ?? []);

  const send = (content: string, attachments: Parameters<typeof session.say>[1]) => {
    // The catalog may still be on its way, which only tells a better choice.
    if (model && session.settings().model !== model.id) session.changeSettings({ model: model.id });
    const made = session.say(content, attachments);
    go({ page: "chat", rest: [made.id], replace: wanted === null });
  };
  const empty = session.path.value.length === 0;
  return (
    <div class="chat">
      <aside class="chat-side">
        <Conversations />
      </aside>
      <section class="chat-main">
        <Head
          models={generating}
          stores={stores.data ?? []}
          onList={() => setDrawer("list")}
          onSettings={() => setDrawer("settings")}
        />
        {session.storageError.value !== null && <p class="chat-note warn">{say("storage.lost")}</p>}
        {foreign && (
          <p class="chat-note warn" role="note">
            {able ? say("language.choose", { model: model.id, other: able.id }) : say("language.pull", { model: model.id })}
          </p>
        )}
        {models.error ? <Failure error={models.error} onRetry={models.reload} /> : null}
        {session.loading.value ? (
          <p class="chat-fill muted" role="status">
            {t("shell.loading")}
          </p>
        ) : empty ? (
          <div class="chat-fill">
            {models.data && generating.length === 0 ? (
              <Empty
                icon="models"
                title={say("empty.nomodel")}
                text={say("empty.nomodel.text")}
                commands={["deepwell pull qwen2.5-coder-0.5b", "deepwell serve qwen2.5-coder-0.5b"]}
              />
            ) : (
              <Empty icon="chat" title={say("empty.title")} text={say("empty.text")} commands={["deepwell chat"]}>
                <div class="chat-examples">
                  {EXAMPLES.map((name) => (
                    <button key={name} type="button" class="button" disabled={!model} onClick={() => send(say(name), [])}>
                      {say(name)}
                    </button>
                  ))}
                </div>
              </Empty>
            )}
          </div>
        ) : (
          <Thread key={session.current.value?.id} />
        )}
        <Composer onSend={send} disabled={!model} foreign={language.value === "zh" && hearsEnglishAlone(listedModels)} />
      </section>
      {drawer === "list" && (
        <Dialog title={say("list.title")} side="left" onClose={() => setDrawer(null)}>
          <Conversations onOpen={() => setDrawer(null)} />
        </Dialog>
      )}
      {drawer === "settings" && <SettingsDrawer defaults={model && defaultsOf(model, listedModels)} onClose={() => setDrawer(null)} />}
    </div>
  );
}

/** The sampling that a model declares, or the one that it stands on. */
function defaultsOf(model: Model, all: readonly Model[]): Model["default_sampling"] {
  return model.default_sampling ?? all.find((one) => one.id === model.parent)?.default_sampling;
}

/** Languages of the models of the catalog. A server without one, or a key that may not read it, tells none. */
async function spokenLanguages(signal: AbortSignal): Promise<Spoken[]> {
  try {
    return (await api<ListPage<Spoken>>("/v1/catalog", { signal })).data;
  } catch (error) {
    if (signal.aborted) throw error;
    return [];
  }
}

/** Vector stores to answer from. A server without them, or a key without their scope, has none. */
async function knowledgeBases(signal: AbortSignal): Promise<VectorStore[]> {
  try {
    const page = await api<ListPage<VectorStore>>("/v1/vector_stores", { query: { limit: 100 }, signal });
    return page.data;
  } catch (error) {
    if (signal.aborted) throw error;
    return [];
  }
}
