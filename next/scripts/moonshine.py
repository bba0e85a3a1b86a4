import moonshine_dump as dump,torch,numpy as np,json
from transformers import MoonshineConfig,MoonshineForConditionalGeneration,PreTrainedTokenizerFast,Wav2Vec2FeatureExtractor,Wav2Vec2Processor,GenerationConfig
from tokenizers import Tokenizer,models,normalizers,decoders,processors,AddedToken
A='moonshine_voice/assets/tiny-en/'; sd={}
def deq(ini,q): 
    b=q[:-len('_quantized')]; z=ini[b+'_zero_point']; s=ini[b+'_scale']; w=ini[q]
    print(w.dtype,z.dtype,z.shape) if z.shape else None
    return (w.astype(np.float32)-z.astype(np.float32))*s
ini,nodes=dump.read(A+'encoder_model.ort')
names=lambda n: n[1].strip('/').replace('/','.')
def linear(ini,nodes,pre):
    for n in nodes:
        q=[x for x in n[2] if x.endswith('_quantized') and x in ini]
        if not q: continue
        name=n[1].strip('/').split('/MatMul')[0].replace('/','.')
        if 'embed_tokens' in name: sd['model.decoder.embed_tokens.weight']=deq(ini,q[0]); continue
        if name=='proj_out': sd['proj']=deq(ini,q[0]).T; continue
        sd[pre+name+'.weight']=deq(ini,q[0]).T
        for b in n[2]:
            if '.bias' in b: sd[pre+name+'.bias']=ini[b]
linear(ini,nodes,'model.encoder.')
for k,v in ini.items():
    if k.endswith('layernorm.weight') or k=='layer_norm.weight': sd['model.encoder.'+k]=v
    if k.startswith('conv') : sd['model.encoder.'+k.replace('_add_tensor','')]=v
sd['model.encoder.groupnorm.weight']=ini['onnx::Mul_2080'][:,0]; sd['model.encoder.groupnorm.bias']=ini['onnx::Add_2081'][:,0]
i1,n1=dump.read(A+'decoder_model_merged.ort'); i2,n2=[x for n in n1 for x in n[5] if x[0]=='else_branch'][0][1]; i={**i1,**i2}
linear(i,n2,'')
for k,v in i.items():
    if 'norm.weight' in k: sd[k.split('_merged')[0]]=v
m=MoonshineForConditionalGeneration(MoonshineConfig())
print(np.abs(sd['proj']-sd['model.decoder.embed_tokens.weight']).max()); emb=sd.pop('proj'); 
r=m.load_state_dict({k:torch.tensor(np.ascontiguousarray(v,dtype=np.float32)) for k,v in sd.items()},strict=False); print(r); print(m.config.tie_word_embeddings)
m.generation_config=GenerationConfig(max_length=194,bos_token_id=1,eos_token_id=2,decoder_start_token_id=1,pad_token_id=2)
m.config.pad_token_id=2
m.save_pretrained('moonshine-tiny')
b=open(A+'tokenizer.bin','rb').read(); j=0; out=[]
while j<len(b):
    n=b[j]; j+=1
    if n>=128: n=n-128+128*b[j]; j+=1
    out.append(b[j:j+n]); j+=n
out[3:259]=[f'<0x{k:02X}>'.encode() for k in range(256)]
vocab={}
for k,t in enumerate(out):
    t=t.decode() or f'<empty{k}>'
    assert t not in vocab,(k,t); vocab[t]=k
merges=[]
for t,k in vocab.items():
    if k<259 or k>=32000: continue
    l=[(vocab[t[:c]],vocab[t[c:]],t[:c],t[c:]) for c in range(1,len(t)) if t[:c] in vocab and t[c:] in vocab]
    for a,c,x,y in sorted(l): merges.append((x,y))
tk=Tokenizer(models.BPE(vocab,merges,unk_token='<unk>',fuse_unk=True,byte_fallback=True))
tk.normalizer=normalizers.Sequence([normalizers.Prepend('▁'),normalizers.Replace(' ','▁')])
tk.decoder=decoders.Sequence([decoders.Replace('▁',' '),decoders.ByteFallback(),decoders.Fuse(),decoders.Strip(' ',1,0)])
tk.add_special_tokens(['<unk>','<s>','</s>'])
t=PreTrainedTokenizerFast(tokenizer_object=tk,bos_token='<s>',eos_token='</s>',unk_token='<unk>')
print(t('The birch canoe slid on the smooth planks.').tokens(), t.decode(t('Hello there.').input_ids))
Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=False),t).save_pretrained('moonshine-tiny')
