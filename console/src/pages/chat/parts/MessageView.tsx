import * as session from "../model/session";
import { say } from "../say";
import { AnswerView } from "./AnswerView";
import { ResultView } from "./ToolCards";
import { UserView } from "./UserView";

/** One message of the thread. It follows its own signal, so that a growing answer redraws itself alone. */
export function MessageView({ id, last }: { id: string; last: boolean }) {
  const message = session.messageOf(id)?.value;
  if (!message) return null;
  return (
    <div class={`message ${message.role}`}>
      <div class="message-role">
        {say(`role.${message.role}`)}
        {message.role === "assistant" && message.model && <span class="message-model">{message.model}</span>}
      </div>
      {message.role === "user" && <UserView message={message} />}
      {message.role === "assistant" && <AnswerView message={message} last={last} />}
      {message.role === "tool" && <ResultView message={message} />}
    </div>
  );
}
